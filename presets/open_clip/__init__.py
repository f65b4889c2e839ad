"""Tables of OpenCLIP's checkpoints."""
