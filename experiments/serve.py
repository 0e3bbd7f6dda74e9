"""Serve a page on which a saved model can be tried: upload, paste or photograph, and see what it says and why."""

from cifar_fast.commands import serve

if __name__ == "__main__":
    serve.main()
