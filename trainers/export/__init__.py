"""Trained weights in the forms that other software reads."""

#: The forms by name: ending of the file, and what it is. Here, so that ``geoshards export --help`` needs no torch.
FORMATS = {
    "timm": (".safetensors", "the ViT under timm's names; load strictly into vit_*_patch16_224 with num_classes=0"),
    "multimodal": (".pt", "ViT, OSM encoder and fusion, with their settings; trainers.export.weights.load_multimodal"),
    "safetensors": (".safetensors", "all weights, decoder included, with the settings as metadata"),
    "torchscript": (".ts", "the ViT: f32[B,C,S,S] pixels in 0..255 to tokens f32[B,1+P,D]"),
    "onnx": (".onnx", "the same; needs the packages onnx and onnxscript"),
}
