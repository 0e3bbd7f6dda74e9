"""Search options of a training script with Ray Tune, on held-out images; the winner is trained on all and tested."""

from cifar_fast.commands import sweep

if __name__ == "__main__":
    sweep.main()
