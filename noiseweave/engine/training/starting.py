"""Training that starts from a model: its network, made to know the classes of the new pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from noiseweave.engine.networks.base_models import BaseModel


def adapted(model: BaseModel, rows_K: Sequence[int]) -> BaseModel:
    """A loaded model for K classes, ready to be trained: each class's embedding begins as that of its row.

    Without classes before, embeddings are zeros; without classes now, that of no class goes into the time's. Either
    way the network is, before the first step, the function that it was.
    """
    network, classes = model.network.requires_grad_(True).train(), len(rows_K)
    old: nn.Embedding | None = network.class_embedding
    if classes and old is not None:
        network.class_embedding = _embedding(old.weight[[*rows_K, model.classes]])
    elif classes:
        network.class_embedding = _embedding(
            torch.zeros(classes + 1, network.time_embedding.linear_2.out_features)
        )
    elif old is not None:
        with torch.no_grad():
            network.time_embedding.linear_2.bias += old.weight[model.classes]
        network.class_embedding = None
    network.register_to_config(num_class_embeds=classes + 1 if classes else None)
    return dataclasses.replace(model, network=network, classes=classes)


def _embedding(weight_KD: torch.Tensor) -> nn.Embedding:
    return nn.Embedding.from_pretrained(weight_KD.detach().clone(), freeze=False)
