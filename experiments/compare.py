"""Put runs side by side: one HTML page, one printed table, and for every pair whether the difference is real."""

from cifar_fast.commands import compare

if __name__ == "__main__":
    compare.main()
