"""A policy for continuous actions: an MLP whose output a tanh squashes into the bounds of the actions.

B states, O numbers of an observation, A numbers of an action.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from finetune.configuration import Section
from finetune.training.ranks import ALONE
from finetune.training.state import write_whole
from medsiglip.checkpoints.safetensors_files import opened

Activation = Literal["relu", "tanh"]
Act = Callable[[Any], Any]
"""One observation, (O,), to an action, (A,) float32."""


class Shape(Section):
    """Of an MLP."""

    hidden_units: int = 256
    hidden_layers: int = 2
    activation: Activation = "relu"
    dropout: float = 0.0
    """While it learns."""


def mlp(num_inputs: int, num_outputs: int, shape: Shape) -> nn.Sequential:
    """Return an MLP."""
    layers: list[nn.Module] = []
    for _ in range(shape.hidden_layers):
        layers += [nn.Linear(num_inputs, shape.hidden_units), nn.ReLU() if shape.activation == "relu" else nn.Tanh()]
        layers += [nn.Dropout(shape.dropout)] if shape.dropout else []
        num_inputs = shape.hidden_units
    return nn.Sequential(*layers, nn.Linear(num_inputs, num_outputs))


class Policy(nn.Module):
    """A deterministic policy."""

    observation_mean: torch.Tensor
    observation_std: torch.Tensor
    action_low: torch.Tensor
    action_high: torch.Tensor

    def __init__(self, num_observations: int, action_low: Any, action_high: Any, shape: Shape) -> None:
        """Make a policy of random weights that takes observations as they are.

        Args:
            num_observations: O.
            action_low: The bounds of an action, (A,).
            action_high: The same.
            shape: Of its MLP.
        """
        super().__init__()
        self.shape = shape
        self.register_buffer("observation_mean", torch.zeros(num_observations))
        self.register_buffer("observation_std", torch.ones(num_observations))
        self.register_buffer("action_low", torch.as_tensor(action_low, dtype=torch.float32))
        self.register_buffer("action_high", torch.as_tensor(action_high, dtype=torch.float32))
        self.network = mlp(num_observations, len(self.action_low), shape)

    def standardize(self, observations: Any) -> None:
        """Take observations by their mean and standard deviation over some, (B, O); a constant number is left alone."""
        mean, std = np.mean(observations, axis=0), np.std(observations, axis=0)
        self.observation_mean.copy_(torch.as_tensor(mean))
        self.observation_std.copy_(torch.as_tensor(np.where(std > 1e-6, std, 1.0)))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return the actions, (B, A), on observations, (B, O)."""
        squashed = torch.tanh(self.network((observations - self.observation_mean) / self.observation_std))
        return self.action_low + (squashed + 1) / 2 * (self.action_high - self.action_low)

    def act(self) -> Act:
        """Return the policy as a plain function in NumPy, several times as fast for one observation.

        It looks at the weights where they lie: what is learned afterwards it knows.
        """
        layers = [
            (layer.weight.detach().numpy(), layer.bias.detach().numpy())
            for layer in self.network
            if isinstance(layer, nn.Linear)
        ]
        mean, std = self.observation_mean.numpy(), self.observation_std.numpy()
        low, high = self.action_low.numpy(), self.action_high.numpy()
        rectified = self.shape.activation == "relu"

        def act(observation: Any) -> Any:
            value = (np.asarray(observation, np.float32) - mean) / std
            for weight, bias in layers[:-1]:
                value = weight @ value + bias
                value = np.maximum(value, 0) if rectified else np.tanh(value)
            weight, bias = layers[-1]
            return low + (np.tanh(weight @ value + bias) + 1) / 2 * (high - low)

        return act


def save_policy(policy: Policy, path: Path) -> None:
    """Write a policy as one safetensors file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach() for name, value in policy.state_dict().items()}
    write_whole(path, tensors, {"shape": json.dumps(policy.shape.model_dump())}, ALONE)


def load_policy(path: Path) -> Policy:
    """Read what `save_policy` wrote.

    Raises:
        ValueError: There is no such file, it is cut short, or something else.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such policy; expected a file that `save_policy` wrote")
    with opened([path], "pt") as files:
        file = files[path]
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        told = (file.metadata() or {}).get("shape")
    if told is None:
        raise ValueError(f"{path}: says no shape of a policy; expected a file that `save_policy` wrote")
    shape = Shape.model_validate(json.loads(told))
    low, high = tensors["action_low"], tensors["action_high"]
    policy = Policy(len(tensors["observation_mean"]), low, high, shape)
    policy.load_state_dict(tensors)
    return policy.eval()
