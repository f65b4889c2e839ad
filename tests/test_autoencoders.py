"""What the autoencoders do besides reconstructing."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import torch

from keras_hub_torch.models import RQVAEBackbone, VAEBackbone

from . import oracle
from .cases.rqvae import CASES as RQVAE
from .cases.vae import config

array = keras.ops.convert_to_numpy


@torch.no_grad()
def test_halves() -> None:
    images = torch.rand(2, 16, 8, 3)
    model = VAEBackbone(**config(sample_channels=6)).eval()
    latents = model.encode(images)
    assert latents.shape == (2, 8, 4, 3)
    assert torch.equal(model.decode(latents), model(images))
    theirs = oracle.UNEXPORTED["VAEBackbone"](**config(sample_channels=6))
    for ours in (model.encoder, model.decoder):
        assert (
            sum(p.numel() for p in ours.parameters())
            == getattr(theirs, "encoder" if ours is model.encoder else "decoder").count_params()
        )
    assert (model.scale, model.shift) == (theirs.scale, theirs.shift)


@torch.no_grad()
def test_channels_first() -> None:
    """The same as with channels last; KerasHub fails there."""
    last = VAEBackbone(**config()).eval()
    first = VAEBackbone(**config(data_format="channels_first")).eval()
    first.load_state_dict(last.state_dict())
    images = torch.rand(1, 12, 8, 3)
    outputs = first(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    oracle.assert_close(outputs, oracle.named(last(images)))


@torch.no_grad()
def test_sampling() -> None:
    """Latents are normal around what `mode` gives, and the same with the same seed."""
    model = VAEBackbone(**config()).eval()
    for parameter in model.encoder.output_projection.parameters():
        parameter.normal_(0, 0.05)
    images = torch.rand(1, 4, 4, 3)
    mode = model.encode(images)
    sampling = VAEBackbone(**config(sampler_method="sample")).eval()
    sampling.load_state_dict(model.state_dict())
    torch.manual_seed(0)
    drawn = sampling.encode(images.expand(4000, -1, -1, -1))
    torch.manual_seed(0)
    assert torch.equal(sampling.encode(images.expand(4000, -1, -1, -1)), drawn)
    _, log_variance = model.encoder(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).chunk(2, -1)
    assert ((drawn.mean(0) - mode[0]).abs() < 0.15 * (log_variance[0] / 2).exp() + 1e-3).all()
    ratio = drawn.std(0) / (log_variance[0] / 2).exp()
    assert ((ratio - 1).abs() < 0.1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_num_filters": [32, 48]}, "multiples of 32"),
        ({"encoder_num_blocks": [1]}, "equally long"),
        ({"decoder_num_filters": [32, 64, 32], "decoder_num_blocks": [1, 0, 1]}, "where"),
        ({"sample_channels": 7}, "must be even"),
        ({"sampler_method": "mean"}, "'sample' or 'mode'"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VAEBackbone(**config(**changes))


@pytest.mark.parametrize("case", RQVAE, ids=lambda case: case.id)
def test_codebooks_follow_as_in_keras(case: oracle.Case) -> None:
    """Outputs, loss and moving averages of three steps in training mode."""
    theirs = oracle.keras_model(case)
    for quantizer in theirs.residual_quantizer.quantizers:
        quantizer.ema_cluster_size.assign(np.abs(array(quantizer.ema_cluster_size)))
    ours = RQVAEBackbone(**case.config)
    from_keras = {
        f"residual_quantizer.quantizers.{i}.{name}": array(getattr(quantizer, name))
        for i, quantizer in enumerate(theirs.residual_quantizer.quantizers)
        for name in ("embeddings", "ema_cluster_size", "ema_w")
    }
    for half in ("encoder", "decoder"):
        layers = [*getattr(theirs, half).dense_layers, getattr(theirs, half).output_layer]
        names = [f"dense_layers.{i}" for i in range(len(layers) - 1)] + ["output_layer"]
        for name, layer in zip(names, layers):
            from_keras[f"{half}.{name}.weight"] = array(layer.kernel).T
            from_keras[f"{half}.{name}.bias"] = array(layer.bias)
    ours.load_state_dict({name: torch.tensor(value) for name, value in from_keras.items()})
    ours.train()
    for _ in range(3):
        x = case.rng.standard_normal((6, case.config["input_dim"])).astype("float32")
        expected = theirs(x, training=True)
        outputs = ours(torch.from_numpy(x))
        oracle.assert_close(outputs, oracle.named(expected))
        loss = ours.compute_loss(torch.from_numpy(x), None, outputs)
        expected = theirs.compute_loss(torch.from_numpy(x), None, expected)
        oracle.assert_close(loss, oracle.named(expected))
    for name, buffer in ours.named_buffers():
        *_, i, leaf = name.split(".")
        value = getattr(theirs.residual_quantizer.quantizers[int(i)], leaf)
        oracle.assert_close(buffer, oracle.named(value.value))
