"""Trained weights in the forms that other software reads."""

#: The forms by name: ending of the file, and what it is. Here, so that ``geoshards export --help`` needs no torch.
FORMATS = {
    "timm": (".safetensors", "the image encoder, a ViT, under timm's names; load strictly with num_classes=0"),
    "croma": (".safetensors", "the image encoder of GAIR with rs_encoder=croma, under CROMA's names"),
    "multimodal": (".pt", "all that encodes, with its settings; trainers.export.load: load_multimodal, load_encoder"),
    "safetensors": (".safetensors", "all weights, decoder included, with the settings as metadata"),
    "torchscript": (".ts", "the image encoder: pixels in 0..255 f32[B,C,S,S] to tokens; GAIR's without a class token"),
    "onnx": (".onnx", "the same; needs the packages onnx and onnxscript"),
}
