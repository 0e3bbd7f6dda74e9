"""Say what is in image files, with a saved model: a folder of export_safe (a run's model/) or an .onnx file."""

from cifar_fast.commands import predict

if __name__ == "__main__":
    predict.main()
