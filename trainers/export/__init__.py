"""Trained weights in the forms that other software reads."""

#: The forms by name: ending of the file, and what it is. Here, so that ``geoshards export --help`` needs no torch.
FORMATS = {
    "timm": (".safetensors", "the image encoder, a ViT, under timm's names; load strictly with num_classes=0"),
    "croma": (".safetensors", "the image encoder of GAIR with rs_encoder=croma, under CROMA's names"),
    "multimodal": (".pt", "all encoders with their settings; trainers.export.load: load_multimodal, load_encoders"),
    "safetensors": (".safetensors", "all weights, decoders included, with the settings as metadata"),
    "torchscript": (".ts", "the image encoder: f32[B,C,S,S] pixels in 0..255 to tokens (GeoLink: f32[B,1+P,D])"),
    "onnx": (".onnx", "the same; needs the packages onnx and onnxscript"),
}
