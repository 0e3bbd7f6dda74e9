"""An own network: a ResNet-9. `python own_resnet9.py --width 32 --epochs 5 --seeds 3`"""

from cifar_fast.all import count, experiment, fast_learner, nn


def conv(ni, nf):
    return nn.Sequential(nn.Conv2d(ni, nf, 3, padding=1, bias=False), nn.BatchNorm2d(nf), nn.ReLU(inplace=True))


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def block(ni, nf):
    return nn.Sequential(conv(ni, nf), nn.MaxPool2d(2), Residual(conv(nf, nf), conv(nf, nf)))


@experiment
def own_resnet9(dls, width: count = 32):  # channels of the first convolution
    "A ResNet-9 of my own."
    w, head = width, [nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(width * 8, dls.c)]
    model = nn.Sequential(conv(3, w), block(w, w * 2), conv(w * 2, w * 4), block(w * 4, w * 8), *head)
    return fast_learner(dls, model)
