"""Train by a record recipe against the clock: to 90, 94 or 96 % on CIFAR-10."""

from cifar_fast.commands import speedrun

if __name__ == "__main__":
    speedrun.main()
