"""Trained models for programs that have no rnnlab: ONNX, `torch.export`, safetensors."""
