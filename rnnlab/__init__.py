"""rnnlab: write a recurrent cell once, as plain PyTorch; train it deep, bidirectional and fused."""
