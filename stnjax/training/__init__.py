"""Training: pure steps, programs on devices, run folders."""
