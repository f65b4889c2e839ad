"""D-FINE as a graph of Keras layers."""

from __future__ import annotations

from typing import Any

from ..layers.layout import Graph, Kind, Layout, beside


def layout_of(model: Any) -> Layout:
    """What would embed classes stands beside the graph if there is nothing to denoise."""
    graph = Graph()
    image = graph("pixel_values")
    features = graph(model.backbone.name, image)
    maps = []
    for i in range(len(model.out_features)):
        conv = graph(f"encoder_input_proj_conv_{i}", features)
        maps.append(graph(f"encoder_input_proj_bn_{i}", conv))
    encoded = graph("hybrid_encoder", *maps)
    sources: list[tuple[str, int]] = []
    for i in range(model.num_feature_levels):
        before = encoded if i <= len(maps) else sources[-1]
        if model.projected:
            size = 1 if i < len(maps) else 3
            conv = graph(f"decoder_input_proj_conv{size}_{i}", before)
            sources.append(graph(f"decoder_input_proj_bn{size}_{i}", conv))
        else:
            sources.append(graph(f"decoder_input_proj_identity_{i}", before))
    shapes = graph("spatial_shapes_extractor", *sources)
    pixels = graph("source_flattener", *sources)
    anchors = graph("anchor_generator", *sources)
    dense = graph("enc_output_dense", graph("where", anchors, pixels))
    memory = graph("enc_output_ln", dense)
    scores, moves = graph("enc_score_head", memory), graph("enc_bbox_head", memory)
    boxes = graph("add", moves, anchors)
    noisy, known = [], []
    if model.denoising is not None:
        noisy = [graph("denoising_processor", image)]
        known = [graph("denoising_class_embed", *noisy)]
    queries = graph(
        "initial_query_reference_generator",
        *(scores, boxes, memory, sources[-1]),
        *(*noisy, *known),
    )
    decoded = graph("decoder", *noisy, pixels, queries, queries, shapes)
    return Layout(
        Kind.GRAPH,
        names={"encoder": "hybrid_encoder"},
        attributes={
            "encoder_input_proj": "encoder_input_proj_layers",
            "enc_output_dense": "enc_output_layers",
            "enc_output_ln": "enc_output_layers",
            "decoder_input_proj": "decoder_input_proj_layers",
        },
        inside={"denoising_class_embed": beside} if model.beside else {},
        order=graph.order(decoded, *noisy, scores, moves, queries, encoded),
        assigned=(
            "backbone",
            "encoder",
            "decoder",
            "denoising_class_embed",
            "initial_query_reference_generator",
            "encoder_input_proj_layers",
            "enc_output_layers",
            "enc_score_head",
            "enc_bbox_head",
            "decoder_input_proj_layers",
        ),
    )
