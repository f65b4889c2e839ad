"""D-FINE (arXiv:2410.13842): a detector of objects that refines distributions of their edges."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .._backbone import Backbone
from .._inputs import Images
from ..layers.convolution import (
    BatchNormalization,
    Conv2D,
    ConvNorm,
    SamePadding,
    channels_back,
    channels_first,
    check_data_format,
)
from ..layers.core import Dense, Embedding, LayerNormalization
from ..layers.dtypes import DTypeLike
from ..layers.initializers import constant, glorot_uniform, zeros
from ..layers.layout import Layout, Parts
from ..layers.pyramid import own_dtype
from ..layers.vision import check_images, image_channels
from .attention import NORMAL, SAMPLERS
from .checks import check_arguments, check_features, check_sizes, fitting
from .decoder import DFineDecoder, DFineMLPPredictionHead
from .denoising import Denoising, plain_labels
from .encoder import DFineHybridEncoder
from .graph import layout_of
from .queries import DFineInitialQueryAndReferenceGenerator, anchors_of, rows_of

Outputs = dict[str, torch.Tensor | tuple[torch.Tensor, ...]]


def project(name: str, i: int, inputs: int, filters: int, kernel_size: int = 1) -> ConvNorm:
    """To other channels; of a kernel of 3 pixels, to half the resolution, too."""
    strides = 1 if kernel_size == 1 else 2
    return ConvNorm(
        Conv2D(inputs, filters, kernel_size, strides, use_bias=False, kernel_initializer=NORMAL),
        BatchNormalization(filters, epsilon=1e-5),
        pad=None if strides == 1 else SamePadding(kernel_size, strides),
        names=(name.format("conv", i), name.format("bn", i)),
    )


class DFineBackbone(Backbone):
    """Detector of objects: a convolutional network, a hybrid encoder of its maps, and a decoder of
    queries that look at a few points of these.

    `pixel_values` `[batch, height, width, channels]` → a dictionary in which `queries` counts those
    of `labels`, too, and tuples have one tensor for each layer:

    - of the decoder: `last_hidden_state` `[batch, queries, hidden_dim]`;
      `intermediate_hidden_states` `[batch, num_decoder_layers, queries, hidden_dim]`;
      `intermediate_logits`, `intermediate_reference_points` (boxes: centre, width and height from 0
      to 1), `intermediate_predicted_corners` (33 logits for each edge) and
      `initial_reference_points`, all `[batch, num_decoder_layers + 1, queries, …]`, the first of
      them the guess before any refinement; the tuples `decoder_hidden_states`,
      `decoder_attentions` `[batch, heads, queries, queries]` and `cross_attentions`
      `[batch, queries, heads, points]`;
    - of the encoder: `encoder_last_hidden_state`, the finest map; the tuples
      `encoder_hidden_states`, the maps that go into attention and the last that comes out of it,
      and `encoder_attentions` `[batch, heads, pixels, pixels]`;
    - between the two: `enc_outputs_class` and `enc_outputs_coord_logits` `[batch, pixels, …]`, what
      is seen at each pixel of all maps; `enc_topk_logits` and `enc_topk_bboxes`, of the most likely
      ones, and `init_reference_points`, logits of the queries' boxes, `[batch, queries, …]`;
    - with `labels` and `num_denoising`: `dn_positive_idx` `[batch, objects]`, places of the queries
      that are to find the objects again, `dn_num_group` `[batch]` and `dn_num_split` `[batch, 2]`,
      the numbers of these queries and of the others.

    Args:
        backbone: an `HGNetV2Backbone`. One of another data format is made anew, with its weights.
        decoder_in_channels: one number for each map; of the last, `hidden_dim` means that maps go
            into the decoder as they are, and others that they are projected.
        encoder_hidden_dim: width of the encoder's maps.
        num_labels: number of classes.
        num_denoising: about how many queries `labels` are for; 0 for none.
        learn_initial_query: whether queries are learned, not taken from the image.
        num_queries: of the image.
        anchor_image_size: height and width of images. Larger ones are computed as KerasHub does, as
            if their pixels were those of maps for this size: set it to the size of yours.
        feat_strides: of each of the decoder's maps, pixels of the image for one of its own.
        num_feature_levels: number of the decoder's maps; those that the encoder does not have are
            made of the one before.
        hidden_dim: width of the decoder.
        encoder_in_channels: one number for each map; their values are without effect.
        encode_proj_layers: which maps have attention within, from 0.
        num_attention_heads: of that.
        encoder_ffn_dim: width inside its feed-forward networks.
        num_encoder_layers: of it in each map.
        hidden_expansion: width of branches in the encoder for that of its maps.
        depth_multiplier: a third of how many blocks a branch has.
        eval_idx: without effect; a layer of the decoder.
        num_decoder_layers: number of the decoder's layers.
        decoder_attention_heads: of its attention.
        decoder_ffn_dim: width inside its feed-forward networks.
        decoder_n_points: of each map that a head looks at; one number or a list.
        lqe_hidden_dim: width inside what estimates the quality of boxes.
        num_lqe_layers: number of its linear maps.
        decoder_method: `default` looks between pixels, `discrete` at the nearest one.
        label_noise_ratio: twice the share of `labels` that are given other classes.
        box_noise_scale: by how many halves of its size an edge of a box may be moved; 0 for none.
        labels: of each image of a batch (or of more) a dictionary of `boxes` `[objects, 4]`,
            centre, width and height from 0 to 1, and `labels` `[objects]`, their classes. Queries
            that are like them join the others; how they differ is drawn when the model is built.
        seed: of that.
        image_shape: height, width and channels in the order of `data_format`; only the channels
            have an effect, and `None` of them is 3.
        out_features: which outputs of `backbone`, the finest first; by default its last ones.
        data_format: `channels_last` or `channels_first`, of images and maps; `None` for the first.
        dtype, trainable, name: as in `Model`. The `backbone` keeps its dtype.

    Raises:
        ValueError: another class of `backbone`, lists of wrong lengths, heads that do not divide a
            width, unknown maps or layers, boxes outside the image, labels without boxes or unknown
            ones; images of other channels, of a size where a map is not twice as large as the next
            one or that is smaller than `anchor_image_size`, or more of them than `labels`.
    """

    num_feature_levels: int
    encoder_hidden_dim: int
    hidden_dim: int

    def __init__(
        self,
        backbone: Backbone,
        decoder_in_channels: Sequence[int],
        encoder_hidden_dim: int,
        num_labels: int,
        num_denoising: int,
        learn_initial_query: bool,
        num_queries: int,
        anchor_image_size: Sequence[int],
        feat_strides: Sequence[int],
        num_feature_levels: int,
        hidden_dim: int,
        encoder_in_channels: Sequence[int],
        encode_proj_layers: Sequence[int],
        num_attention_heads: int,
        encoder_ffn_dim: int,
        num_encoder_layers: int,
        hidden_expansion: float,
        depth_multiplier: float,
        eval_idx: int,
        num_decoder_layers: int,
        decoder_attention_heads: int,
        decoder_ffn_dim: int,
        decoder_n_points: int | Sequence[int],
        lqe_hidden_dim: int,
        num_lqe_layers: int,
        decoder_method: str = "default",
        label_noise_ratio: float = 0.5,
        box_noise_scale: float = 1.0,
        labels: Sequence[Mapping[str, Any]] | None = None,
        seed: int | None = None,
        image_shape: Sequence[int | None] = (None, None, 3),
        out_features: Sequence[str] | None = None,
        data_format: str | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.data_format = check_data_format(data_format)
        self.channels = image_channels(image_shape, self.data_format)
        network: Any = fitting(backbone, self.data_format, self.channels)
        names = network.stage_names[-len(decoder_in_channels) :]
        self.out_features = names if out_features is None else out_features
        self.projected = hidden_dim not in decoder_in_channels[-1:]
        check_arguments(self)
        check_features(network, self.out_features)
        points = decoder_n_points
        points = [points] * num_feature_levels if isinstance(points, int) else points
        num_maps = len(self.out_features)
        places = [network.stage_names.index(feature) for feature in self.out_features]
        self.strides = [4 * 2 ** sum(network.apply_downsample[:place]) for place in places]
        widths = [network.stem_channels[2], *(x.channels for x in network.encoder.stages)]
        self.grids = [(anchor_image_size[0] // s, anchor_image_size[1] // s) for s in feat_strides]

        self.encoder = DFineHybridEncoder(
            num_maps,
            encode_proj_layers,
            encoder_hidden_dim,
            num_attention_heads,
            encoder_ffn_dim,
            num_encoder_layers,
            hidden_expansion,
            depth_multiplier,
        )
        scores = constant(-math.log(num_labels))
        self.decoder = DFineDecoder(
            num_decoder_layers,
            hidden_dim,
            decoder_attention_heads,
            decoder_ffn_dim,
            points,
            self.grids,
            SAMPLERS[decoder_method],
            lqe_hidden_dim,
            num_lqe_layers,
            num_labels,
            scores,
        )
        if num_denoising:
            self.denoising_class_embed = Embedding(num_labels + 1, hidden_dim, glorot_uniform)
        self.labels = plain_labels(labels, num_labels)
        self.denoising: Denoising | None = None
        if num_denoising and self.labels is not None:
            self.denoising = Denoising(
                self.labels,
                num_queries,
                num_labels,
                num_denoising,
                label_noise_ratio,
                box_noise_scale,
                seed,
            )
        self.beside = bool(num_denoising) and self.denoising is None
        if learn_initial_query:
            self.initial_query_reference_generator = DFineInitialQueryAndReferenceGenerator(
                num_queries, hidden_dim
            )
        self.encoder_input_proj = Parts(
            "{}",
            (
                project("encoder_input_proj_{}_{}", i, widths[place], encoder_hidden_dim)
                for i, place in enumerate(places)
            ),
        )
        self.enc_output_dense = Dense(hidden_dim, hidden_dim)
        self.enc_output_ln = LayerNormalization(hidden_dim, 1e-5)
        self.enc_score_head = Dense(hidden_dim, num_labels, bias_initializer=scores)
        self.enc_bbox_head = DFineMLPPredictionHead(hidden_dim, hidden_dim, 4, 3, NORMAL, zeros)
        self.decoder_input_proj = Parts("{}", self.decoder_projections(num_maps))
        self.backbone = own_dtype(network)

    def count_params(self) -> int:
        """As of any model; as in Keras, what stands beside the graph does not count."""
        beside = self.denoising_class_embed.weight.numel() if self.beside else 0
        return super().count_params() - beside

    def decoder_projections(self, num_maps: int) -> Iterator[nn.Module]:
        """What each map goes through on its way from the encoder; those that the encoder does not
        have are made of the one before.
        """
        width = self.encoder_hidden_dim
        for i in range(self.num_feature_levels):
            if not self.projected:
                yield nn.Identity()
            elif i < num_maps:
                yield project("decoder_input_proj_{}1_{}", i, width, self.hidden_dim)
            else:
                yield project("decoder_input_proj_{}3_{}", i, width, self.hidden_dim, 3)
                width = self.hidden_dim

    @property
    def layout(self) -> Layout:
        return layout_of(self)

    def forward(self, pixel_values: Images) -> Outputs:
        check_images(pixel_values, self.data_format, self.channels)
        if not torch.compiler.is_compiling():
            check_sizes(self, pixel_values)
        features = self.backbone(pixel_values)
        maps, states, attentions = self.encoder(
            [
                project(channels_first(features[name], self.data_format))
                for name, project in zip(self.out_features, self.encoder_input_proj)
            ]
        )
        sources: list[torch.Tensor] = []
        for i, project in enumerate(self.decoder_input_proj):
            before = sources[-1] if i > len(maps) else maps[min(i, len(maps) - 1)]
            sources.append(project(before))
        pixels = torch.cat([x.flatten(2).mT for x in sources], dim=1)

        # The most likely pixels become queries, and what is seen there their boxes.
        anchors, valid = anchors_of(sources)
        memory = self.enc_output_ln(self.enc_output_dense(torch.where(valid, pixels, 0)))
        scores, moves = self.enc_score_head(memory), self.enc_bbox_head(memory)
        best = scores.amax(-1).topk(self.num_queries).indices
        boxes = rows_of(moves + anchors, best)
        batch, dtype, device = memory.shape[0], memory.dtype, memory.device
        if self.learn_initial_query:
            queries = self.initial_query_reference_generator(batch)
        else:
            queries = rows_of(memory, best).detach()
        references, bias = boxes.detach(), None
        known: dict[str, torch.Tensor] = {}
        if self.denoising is not None:
            first = torch.arange(batch, device=device)
            classes = self.denoising_class_embed(self.denoising.classes.to(device)[first])
            queries = torch.cat((classes, queries), dim=1)
            changed = self.denoising.boxes.to(device)[first]
            references = torch.cat((changed.to(references), references), dim=1)
            bias = self.denoising.bias(device)
            known = self.denoising.known(first)
        return {
            **self.decoder(queries, references, pixels, bias),
            "encoder_last_hidden_state": channels_back(maps[0], self.data_format),
            "encoder_hidden_states": tuple(channels_back(x, self.data_format) for x in states),
            "encoder_attentions": tuple(attentions),
            "init_reference_points": references.to(dtype),
            "enc_topk_logits": rows_of(scores, best),
            "enc_topk_bboxes": boxes.sigmoid().to(dtype),
            "enc_outputs_class": scores,
            "enc_outputs_coord_logits": moves,
            **known,
        }
