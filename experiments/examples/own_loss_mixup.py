"""An own loss, with fastai's MixUp. `python own_loss_mixup.py --gamma 1.5 --alpha 0.2`"""

from cifar_fast.all import CustomCNN, F, MixUp, experiment, fast_learner


class FocalLoss:
    "Cross-entropy that counts what is nearly right less. Source: Lin et al. 2017."

    y_int = True  # tells MixUp that targets are classes

    def __init__(self, gamma, reduction="mean"):
        self.gamma, self.reduction = gamma, reduction  # MixUp and interpretations set `reduction`

    def __call__(self, preds, targs):
        loss = F.cross_entropy(preds, targs, reduction="none")
        loss = (1 - (-loss).exp()) ** self.gamma * loss
        return loss if self.reduction == "none" else loss.mean()


@experiment
def own_loss_mixup(dls, gamma: float = 2.0, alpha: float = 0.4):  # of the focal loss
    "The custom CNN with a focal loss and MixUp."
    model = CustomCNN(dls.c, width=16)
    return fast_learner(dls, model, loss_func=FocalLoss(gamma), cbs=MixUp(alpha))
