"""Ask a finished run for more than its test accuracy: other test sets, shift, confidence, labels, and a page."""

from cifar_fast.commands import evaluate

if __name__ == "__main__":
    evaluate.main()
