"""DomainBed's small convolutional network for 28 px digits, and its multi-layer perceptron for vectors."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class MnistCNN(nn.Module):
    """Four 3×3 convolutions, each followed by ReLU and then group norm of 8 groups; mean over positions.

    The same layers in the same order as DomainBed's ``MNIST_CNN``, so that equal seeds give equal weights.
    """

    num_features = 128

    def __init__(self, in_chans: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, 64, 3, padding=1)
        self.conv2 = nn.Conv2d(64, 128, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(128, 128, 3, padding=1)
        self.conv4 = nn.Conv2d(128, 128, 3, padding=1)
        self.bn0, self.bn1, self.bn2, self.bn3 = (nn.GroupNorm(8, width) for width in (64, 128, 128, 128))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` → ``[B, 128]``."""
        convs, norms = (self.conv1, self.conv2, self.conv3, self.conv4), (self.bn0, self.bn1, self.bn2, self.bn3)
        for conv, norm in zip(convs, norms, strict=True):
            x = norm(F.relu(conv(x)))
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


class MLP(nn.Module):
    """``depth`` linear layers of equal width, dropout and ReLU between them; DomainBed's featurizer for vectors."""

    def __init__(self, in_features: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.input = nn.Linear(in_features, width)
        self.dropout = nn.Dropout(dropout)
        self.hiddens = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 2))
        self.output = nn.Linear(width, width)
        self.num_features = width

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_features]`` → ``[B, width]``."""
        x = F.relu(self.dropout(self.input(x)))
        for hidden in self.hiddens:
            x = F.relu(self.dropout(hidden(x)))
        return self.output(x)
