"""Accuracy along one hyper-parameter of an ablation study."""
