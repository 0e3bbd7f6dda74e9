"""Train a new head on a frozen pretrained network: the article's cases 1 (--opt adam) and 2 (--opt sgd)."""

from cifar_fast.baselines import transfer

if __name__ == "__main__":
    transfer.main()
