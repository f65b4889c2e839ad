"""Text for decoders, which find each token from those before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .packers import StartEndPacker
from .preprocessor import Preprocessor, samples, with_labels
from .tokenizers.base import Tokenizer


class CausalLMPreprocessor(Preprocessor):
    """A text, and the tokens that follow each of its tokens.

    Args:
        tokenizer: the model's.
        sequence_length: of the rows.
        add_start_token: whether a text begins with the start token, if there is one.
        add_end_token: whether it ends with the end token.
    """

    task = "causal_lm"
    tokenizer: Tokenizer
    padding_side = "right"

    def __init__(
        self,
        tokenizer: Tokenizer,
        sequence_length: int = 1024,
        add_start_token: bool = True,
        add_end_token: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.tokenizer = tokenizer
        self.sequence_length = sequence_length
        self.add_start_token = add_start_token
        self.add_end_token = add_end_token

    @property
    def packer(self) -> StartEndPacker:
        return StartEndPacker(
            sequence_length=self.sequence_length,
            start_value=self.tokenizer.start_token_id,
            end_value=self.tokenizer.end_token_id,
            pad_value=self.tokenizer.pad_token_id,
            return_padding_mask=True,
            padding_side=self.padding_side,
        )

    def __call__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        sequence_length: int | None = None,
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        """To train on: the backbone's inputs, the tokens that follow, and which of these count.

        Args:
            x: a text or a list of them.
            y: ignored, as is `sample_weight`.
            sequence_length: in place of the preprocessor's.
        """
        length = sequence_length or self.sequence_length
        ids, mask = self.packer(
            self.tokenizer.tokenize(samples(x)[0]),
            sequence_length=length + 1,
            add_start_value=self.add_start_token,
            add_end_value=self.add_end_token,
        )
        inputs = {"token_ids": ids[..., :-1], "padding_mask": mask[..., :-1]}
        return with_labels(inputs, ids[..., 1:], mask[..., 1:])

    def generate_preprocess(
        self, x: Any, sequence_length: int | None = None
    ) -> dict[str, torch.Tensor]:
        """To generate from: the backbone's inputs, without an end token."""
        ids, mask = self.packer(
            self.tokenizer.tokenize(x), sequence_length=sequence_length, add_end_value=False
        )
        return {"token_ids": ids, "padding_mask": mask}

    def prompt_inputs(self, x: Any, sequence_length: int | None = None) -> dict[str, torch.Tensor]:
        """What `generate` goes on with."""
        return self.generate_preprocess(x, sequence_length)

    def generate_postprocess(self, x: Mapping[str, Any]) -> Any:
        """Text of what was generated, without padding and special tokens."""
        return detokenized(self.tokenizer, x["token_ids"], x["padding_mask"])


def detokenized(
    tokenizer: Tokenizer, token_ids: Any, padding_mask: Any, but: Sequence[int] = ()
) -> Any:
    """Text of ids `[..., length]` where the mask is true, without special tokens `but` these."""
    ids = torch.as_tensor(token_ids)
    dropped = [id for id in tokenizer.special_token_ids if id not in but]
    special = torch.tensor(dropped, dtype=ids.dtype, device=ids.device)
    kept = torch.as_tensor(padding_mask).bool() & ~torch.isin(ids, special)
    if ids.ndim == 1:
        return tokenizer.detokenize(ids[kept].tolist())
    return tokenizer.detokenize([row[one].tolist() for row, one in zip(ids, kept)])


class GPT2CausalLMPreprocessor(CausalLMPreprocessor):
    backbone = "GPT2Backbone"


class GPTNeoXCausalLMPreprocessor(CausalLMPreprocessor):
    backbone = "GPTNeoXBackbone"


class OPTCausalLMPreprocessor(CausalLMPreprocessor):
    backbone = "OPTBackbone"


class BloomCausalLMPreprocessor(CausalLMPreprocessor):
    backbone = "BloomBackbone"


class FalconCausalLMPreprocessor(CausalLMPreprocessor):
    backbone = "FalconBackbone"


class GemmaCausalLMPreprocessor(CausalLMPreprocessor):
    backbone = "GemmaBackbone"


class LlamaCausalLMPreprocessor(CausalLMPreprocessor):
    backbone = "LlamaBackbone"


class Llama3CausalLMPreprocessor(CausalLMPreprocessor):
    backbone = "Llama3Backbone"


class MistralCausalLMPreprocessor(CausalLMPreprocessor):
    backbone = "MistralBackbone"


class MixtralCausalLMPreprocessor(CausalLMPreprocessor):
    backbone = "MixtralBackbone"


class Phi3CausalLMPreprocessor(CausalLMPreprocessor):
    backbone = "Phi3Backbone"


class QwenCausalLMPreprocessor(CausalLMPreprocessor):
    backbone = "QwenBackbone"


class QwenMoeCausalLMPreprocessor(CausalLMPreprocessor):
    backbone = "QwenMoeBackbone"


class Qwen3CausalLMPreprocessor(CausalLMPreprocessor):
    backbone = "Qwen3Backbone"


class Qwen3MoeCausalLMPreprocessor(CausalLMPreprocessor):
    backbone = "Qwen3MoeBackbone"


class SmolLM3CausalLMPreprocessor(CausalLMPreprocessor):
    backbone = "SmolLM3Backbone"


class GptOssCausalLMPreprocessor(CausalLMPreprocessor):
    backbone = "GptOssBackbone"


Qwen2CausalLMPreprocessor = QwenCausalLMPreprocessor
SmolLMCausalLMPreprocessor = SmolLM3CausalLMPreprocessor


class RWKV7CausalLMPreprocessor(CausalLMPreprocessor):
    """As `CausalLMPreprocessor`; padding is before the text, and no token around it."""

    backbone = "RWKV7Backbone"
    padding_side = "left"

    def __init__(self, tokenizer: Tokenizer, add_start_token: bool = False, **kwargs: Any) -> None:
        super().__init__(tokenizer, add_start_token=add_start_token, **kwargs)

    @property
    def packer(self) -> StartEndPacker:
        packer = super().packer
        packer.start_value = packer.end_value = None
        return packer

    def prompt_inputs(self, x: Any, sequence_length: int | None = None) -> dict[str, torch.Tensor]:
        return super().generate_preprocess(x, sequence_length)

    def generate_preprocess(
        self, x: Any, sequence_length: int | None = None
    ) -> dict[str, torch.Tensor]:
        """What KerasHub's task generates from: texts without their last tokens, which begin
        `predict_token_ids`, `[texts, sequence_length + 1]`; the masks of both.

        Raises:
            ValueError: no `sequence_length`, or a text without tokens.
        """
        if sequence_length is None:
            raise ValueError("sequence_length must be given: how many tokens there are to be.")
        rows = self.tokenizer.tokenize([x] if isinstance(x, str) else x)
        if not all(rows):
            raise ValueError("Every text must have at least one token.")
        rows = [row[-self.sequence_length :] for row in rows]
        ids, mask = self.packer([row[:-1] or [0] for row in rows], add_end_value=False)
        following = torch.zeros(len(rows), sequence_length + 1, dtype=ids.dtype)
        following[:, 0] = torch.tensor([row[-1] for row in rows])
        return {
            "token_ids": ids,
            "input_padding_mask": mask,
            "padding_mask": following != 0,
            "predict_token_ids": following,
        }
