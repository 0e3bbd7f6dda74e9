"""Train the article's custom CNN, or a variant of it: cases 3 (--schedule constant) and 4 (--schedule decay)."""

from cifar_fast.baselines import custom

if __name__ == "__main__":
    custom.main()
