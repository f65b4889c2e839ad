"""Written by `python -m tests.make_stubs`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .backbones._backbone import Backbone as Backbone
from .backbones._backbone import FeaturePyramidBackbone as FeaturePyramidBackbone
from .backbones.gemma4.assistant import Gemma4AssistantCausalLM as Gemma4AssistantCausalLM
from .preprocessing.audio_to_text import AudioToTextPreprocessor as AudioToTextPreprocessor
from .preprocessing.audio_to_text import MoonshineAudioToTextPreprocessor as MoonshineAudioToTextPreprocessor
from .preprocessing.audio_to_text import WhisperPreprocessor as WhisperPreprocessor
from .preprocessing.causal_lm import BloomCausalLMPreprocessor as BloomCausalLMPreprocessor
from .preprocessing.causal_lm import CausalLMPreprocessor as CausalLMPreprocessor
from .preprocessing.causal_lm import FalconCausalLMPreprocessor as FalconCausalLMPreprocessor
from .preprocessing.causal_lm import GPT2CausalLMPreprocessor as GPT2CausalLMPreprocessor
from .preprocessing.causal_lm import GPTNeoXCausalLMPreprocessor as GPTNeoXCausalLMPreprocessor
from .preprocessing.causal_lm import GemmaCausalLMPreprocessor as GemmaCausalLMPreprocessor
from .preprocessing.causal_lm import GptOssCausalLMPreprocessor as GptOssCausalLMPreprocessor
from .preprocessing.causal_lm import Llama3CausalLMPreprocessor as Llama3CausalLMPreprocessor
from .preprocessing.causal_lm import LlamaCausalLMPreprocessor as LlamaCausalLMPreprocessor
from .preprocessing.causal_lm import MistralCausalLMPreprocessor as MistralCausalLMPreprocessor
from .preprocessing.causal_lm import MixtralCausalLMPreprocessor as MixtralCausalLMPreprocessor
from .preprocessing.causal_lm import OPTCausalLMPreprocessor as OPTCausalLMPreprocessor
from .preprocessing.causal_lm import Phi3CausalLMPreprocessor as Phi3CausalLMPreprocessor
from .preprocessing.causal_lm import Qwen3CausalLMPreprocessor as Qwen3CausalLMPreprocessor
from .preprocessing.causal_lm import Qwen3MoeCausalLMPreprocessor as Qwen3MoeCausalLMPreprocessor
from .preprocessing.causal_lm import QwenCausalLMPreprocessor as QwenCausalLMPreprocessor
from .preprocessing.causal_lm import QwenMoeCausalLMPreprocessor as QwenMoeCausalLMPreprocessor
from .preprocessing.causal_lm import RWKV7CausalLMPreprocessor as RWKV7CausalLMPreprocessor
from .preprocessing.causal_lm import SmolLM3CausalLMPreprocessor as SmolLM3CausalLMPreprocessor
from .preprocessing.masked_lm import AlbertMaskedLMPreprocessor as AlbertMaskedLMPreprocessor
from .preprocessing.masked_lm import BertMaskedLMPreprocessor as BertMaskedLMPreprocessor
from .preprocessing.masked_lm import DebertaV3MaskedLMPreprocessor as DebertaV3MaskedLMPreprocessor
from .preprocessing.masked_lm import DistilBertMaskedLMPreprocessor as DistilBertMaskedLMPreprocessor
from .preprocessing.masked_lm import ESMMaskedPLMPreprocessor as ESMMaskedPLMPreprocessor
from .preprocessing.masked_lm import FNetMaskedLMPreprocessor as FNetMaskedLMPreprocessor
from .preprocessing.masked_lm import MaskedLMPreprocessor as MaskedLMPreprocessor
from .preprocessing.masked_lm import ModernBertMaskedLMPreprocessor as ModernBertMaskedLMPreprocessor
from .preprocessing.masked_lm import RobertaMaskedLMPreprocessor as RobertaMaskedLMPreprocessor
from .preprocessing.masked_lm import RoformerV2MaskedLMPreprocessor as RoformerV2MaskedLMPreprocessor
from .preprocessing.masked_lm import XLMRobertaMaskedLMPreprocessor as XLMRobertaMaskedLMPreprocessor
from .preprocessing.multimodal.blip2 import BLIP2CausalLMPreprocessor as BLIP2CausalLMPreprocessor
from .preprocessing.multimodal.blip2 import BLIP2Seq2SeqLMPreprocessor as BLIP2Seq2SeqLMPreprocessor
from .preprocessing.multimodal.clip import CLIPPreprocessor as CLIPPreprocessor
from .preprocessing.multimodal.clip import MetaCLIP2CausalLMPreprocessor as MetaCLIP2CausalLMPreprocessor
from .preprocessing.multimodal.clip import SigLIPPreprocessor as SigLIPPreprocessor
from .preprocessing.multimodal.gemma3 import Gemma3CausalLMPreprocessor as Gemma3CausalLMPreprocessor
from .preprocessing.multimodal.gemma3n import Gemma3nCausalLMPreprocessor as Gemma3nCausalLMPreprocessor
from .preprocessing.multimodal.gemma4 import Gemma4CausalLMPreprocessor as Gemma4CausalLMPreprocessor
from .preprocessing.multimodal.pali_gemma import PaliGemmaCausalLMPreprocessor as PaliGemmaCausalLMPreprocessor
from .preprocessing.multimodal.parseq import PARSeqCausalLMPreprocessor as PARSeqCausalLMPreprocessor
from .preprocessing.multimodal.qwen3_5 import Qwen3_5CausalLMPreprocessor as Qwen3_5CausalLMPreprocessor
from .preprocessing.multimodal.qwen3_5 import Qwen3_5MoeCausalLMPreprocessor as Qwen3_5MoeCausalLMPreprocessor
from .preprocessing.multimodal.sam3 import SAM3PromptableConceptImageSegmenterPreprocessor as SAM3PromptableConceptImageSegmenterPreprocessor
from .preprocessing.multimodal.t5_gemma2 import T5Gemma2Seq2SeqLMPreprocessor as T5Gemma2Seq2SeqLMPreprocessor
from .preprocessing.multimodal.texts import MediaPreprocessor as MediaPreprocessor
from .preprocessing.multimodal.texts import PromptsPreprocessor as PromptsPreprocessor
from .preprocessing.preprocessor import Preprocessor as Preprocessor
from .preprocessing.seq_2_seq_lm import BartSeq2SeqLMPreprocessor as BartSeq2SeqLMPreprocessor
from .preprocessing.seq_2_seq_lm import Seq2SeqLMPreprocessor as Seq2SeqLMPreprocessor
from .preprocessing.seq_2_seq_lm import T5GemmaSeq2SeqLMPreprocessor as T5GemmaSeq2SeqLMPreprocessor
from .preprocessing.seq_2_seq_lm import T5Seq2SeqLMPreprocessor as T5Seq2SeqLMPreprocessor
from .preprocessing.text_classifier import AlbertTextClassifierPreprocessor as AlbertTextClassifierPreprocessor
from .preprocessing.text_classifier import BertTextClassifierPreprocessor as BertTextClassifierPreprocessor
from .preprocessing.text_classifier import DebertaV3TextClassifierPreprocessor as DebertaV3TextClassifierPreprocessor
from .preprocessing.text_classifier import DistilBertTextClassifierPreprocessor as DistilBertTextClassifierPreprocessor
from .preprocessing.text_classifier import ESMProteinClassifierPreprocessor as ESMProteinClassifierPreprocessor
from .preprocessing.text_classifier import FNetTextClassifierPreprocessor as FNetTextClassifierPreprocessor
from .preprocessing.text_classifier import ModernBertTextClassifierPreprocessor as ModernBertTextClassifierPreprocessor
from .preprocessing.text_classifier import RobertaTextClassifierPreprocessor as RobertaTextClassifierPreprocessor
from .preprocessing.text_classifier import RoformerV2TextClassifierPreprocessor as RoformerV2TextClassifierPreprocessor
from .preprocessing.text_classifier import SegmentsPreprocessor as SegmentsPreprocessor
from .preprocessing.text_classifier import TextClassifierPreprocessor as TextClassifierPreprocessor
from .preprocessing.text_classifier import XLMRobertaTextClassifierPreprocessor as XLMRobertaTextClassifierPreprocessor
from .preprocessing.text_embedder import BertTextEmbedderPreprocessor as BertTextEmbedderPreprocessor
from .preprocessing.text_embedder import EmbeddingGemma2TextEmbedderPreprocessor as EmbeddingGemma2TextEmbedderPreprocessor
from .preprocessing.text_embedder import Gemma3TextEmbedderPreprocessor as Gemma3TextEmbedderPreprocessor
from .preprocessing.text_embedder import Qwen3TextEmbedderPreprocessor as Qwen3TextEmbedderPreprocessor
from .preprocessing.text_embedder import TextEmbedderPreprocessor as TextEmbedderPreprocessor
from .preprocessing.text_embedder import XLMRobertaTextEmbedderPreprocessor as XLMRobertaTextEmbedderPreprocessor
from .preprocessing.text_to_image import FluxTextToImagePreprocessor as FluxTextToImagePreprocessor
from .preprocessing.text_to_image import StableDiffusion3TextToImagePreprocessor as StableDiffusion3TextToImagePreprocessor
from .preprocessing.text_to_image import T5Preprocessor as T5Preprocessor
from .preprocessing.text_to_image import TextToImagePreprocessor as TextToImagePreprocessor
from .preprocessing.tokenizers.albert import AlbertTokenizer as AlbertTokenizer
from .preprocessing.tokenizers.albert import DebertaV3Tokenizer as DebertaV3Tokenizer
from .preprocessing.tokenizers.albert import FNetTokenizer as FNetTokenizer
from .preprocessing.tokenizers.base import Tokenizer as Tokenizer
from .preprocessing.tokenizers.bert import BertTokenizer as BertTokenizer
from .preprocessing.tokenizers.bert import DistilBertTokenizer as DistilBertTokenizer
from .preprocessing.tokenizers.bert import ESMTokenizer as ESMTokenizer
from .preprocessing.tokenizers.bert import ElectraTokenizer as ElectraTokenizer
from .preprocessing.tokenizers.bert import RoformerV2Tokenizer as RoformerV2Tokenizer
from .preprocessing.tokenizers.bloom import BloomTokenizer as BloomTokenizer
from .preprocessing.tokenizers.byte_pair import BytePairTokenizer as BytePairTokenizer
from .preprocessing.tokenizers.characters import ByteTokenizer as ByteTokenizer
from .preprocessing.tokenizers.characters import CharacterTokenizer as CharacterTokenizer
from .preprocessing.tokenizers.characters import UnicodeCodepointTokenizer as UnicodeCodepointTokenizer
from .preprocessing.tokenizers.clip import CLIPTokenizer as CLIPTokenizer
from .preprocessing.tokenizers.clip import SAM3Tokenizer as SAM3Tokenizer
from .preprocessing.tokenizers.falcon import FalconTokenizer as FalconTokenizer
from .preprocessing.tokenizers.gemma import DiffusionGemmaTokenizer as DiffusionGemmaTokenizer
from .preprocessing.tokenizers.gemma import EmbeddingGemma2Tokenizer as EmbeddingGemma2Tokenizer
from .preprocessing.tokenizers.gemma import Gemma3Tokenizer as Gemma3Tokenizer
from .preprocessing.tokenizers.gemma import Gemma3nTokenizer as Gemma3nTokenizer
from .preprocessing.tokenizers.gemma import Gemma4Tokenizer as Gemma4Tokenizer
from .preprocessing.tokenizers.gemma import GemmaTokenizer as GemmaTokenizer
from .preprocessing.tokenizers.gemma import PaliGemmaTokenizer as PaliGemmaTokenizer
from .preprocessing.tokenizers.gemma import T5Gemma2Tokenizer as T5Gemma2Tokenizer
from .preprocessing.tokenizers.gemma import T5GemmaTokenizer as T5GemmaTokenizer
from .preprocessing.tokenizers.gpt2 import BLIP2OPTTokenizer as BLIP2OPTTokenizer
from .preprocessing.tokenizers.gpt2 import BartTokenizer as BartTokenizer
from .preprocessing.tokenizers.gpt2 import GPT2Tokenizer as GPT2Tokenizer
from .preprocessing.tokenizers.gpt2 import GPTNeoXTokenizer as GPTNeoXTokenizer
from .preprocessing.tokenizers.gpt2 import OPTTokenizer as OPTTokenizer
from .preprocessing.tokenizers.gpt2 import RobertaTokenizer as RobertaTokenizer
from .preprocessing.tokenizers.gpt_oss import GptOssTokenizer as GptOssTokenizer
from .preprocessing.tokenizers.llama import LlamaTokenizer as LlamaTokenizer
from .preprocessing.tokenizers.llama import MixtralTokenizer as MixtralTokenizer
from .preprocessing.tokenizers.llama import MoonshineTokenizer as MoonshineTokenizer
from .preprocessing.tokenizers.llama import Phi3Tokenizer as Phi3Tokenizer
from .preprocessing.tokenizers.llama3 import Llama3Tokenizer as Llama3Tokenizer
from .preprocessing.tokenizers.llama3 import SmolLM3Tokenizer as SmolLM3Tokenizer
from .preprocessing.tokenizers.mistral import MistralTekkenTokenizer as MistralTekkenTokenizer
from .preprocessing.tokenizers.mistral import MistralTokenizer as MistralTokenizer
from .preprocessing.tokenizers.modern_bert import ModernBertTokenizer as ModernBertTokenizer
from .preprocessing.tokenizers.parseq import PARSeqTokenizer as PARSeqTokenizer
from .preprocessing.tokenizers.qwen import Qwen3MoeTokenizer as Qwen3MoeTokenizer
from .preprocessing.tokenizers.qwen import Qwen3Tokenizer as Qwen3Tokenizer
from .preprocessing.tokenizers.qwen import Qwen3_5MoeTokenizer as Qwen3_5MoeTokenizer
from .preprocessing.tokenizers.qwen import Qwen3_5Tokenizer as Qwen3_5Tokenizer
from .preprocessing.tokenizers.qwen import QwenMoeTokenizer as QwenMoeTokenizer
from .preprocessing.tokenizers.qwen import QwenTokenizer as QwenTokenizer
from .preprocessing.tokenizers.rwkv7 import RWKVTokenizer as RWKVTokenizer
from .preprocessing.tokenizers.sentence_piece import SentencePieceTokenizer as SentencePieceTokenizer
from .preprocessing.tokenizers.t5 import BLIP2FlanT5Tokenizer as BLIP2FlanT5Tokenizer
from .preprocessing.tokenizers.t5 import SigLIPTokenizer as SigLIPTokenizer
from .preprocessing.tokenizers.t5 import T5Tokenizer as T5Tokenizer
from .preprocessing.tokenizers.t5 import VideoPrismTokenizer as VideoPrismTokenizer
from .preprocessing.tokenizers.whisper import WhisperTokenizer as WhisperTokenizer
from .preprocessing.tokenizers.word_piece import WordPieceTokenizer as WordPieceTokenizer
from .preprocessing.tokenizers.xlm_roberta import MetaCLIP2Tokenizer as MetaCLIP2Tokenizer
from .preprocessing.tokenizers.xlm_roberta import XLMRobertaTokenizer as XLMRobertaTokenizer
from .preprocessing.vision import BASNetPreprocessor as BASNetPreprocessor
from .preprocessing.vision import CSPNetImageClassifierPreprocessor as CSPNetImageClassifierPreprocessor
from .preprocessing.vision import DFineObjectDetectorPreprocessor as DFineObjectDetectorPreprocessor
from .preprocessing.vision import DeepLabV3ImageSegmenterPreprocessor as DeepLabV3ImageSegmenterPreprocessor
from .preprocessing.vision import DeiTImageClassifierPreprocessor as DeiTImageClassifierPreprocessor
from .preprocessing.vision import DenseNetImageClassifierPreprocessor as DenseNetImageClassifierPreprocessor
from .preprocessing.vision import DepthAnythingDepthEstimatorPreprocessor as DepthAnythingDepthEstimatorPreprocessor
from .preprocessing.vision import DepthEstimatorPreprocessor as DepthEstimatorPreprocessor
from .preprocessing.vision import EfficientNetImageClassifierPreprocessor as EfficientNetImageClassifierPreprocessor
from .preprocessing.vision import HGNetV2ImageClassifierPreprocessor as HGNetV2ImageClassifierPreprocessor
from .preprocessing.vision import ImageClassifierPreprocessor as ImageClassifierPreprocessor
from .preprocessing.vision import ImageSegmenterPreprocessor as ImageSegmenterPreprocessor
from .preprocessing.vision import MiTImageClassifierPreprocessor as MiTImageClassifierPreprocessor
from .preprocessing.vision import MobileNetImageClassifierPreprocessor as MobileNetImageClassifierPreprocessor
from .preprocessing.vision import MobileNetV5ImageClassifierPreprocessor as MobileNetV5ImageClassifierPreprocessor
from .preprocessing.vision import ObjectDetectorPreprocessor as ObjectDetectorPreprocessor
from .preprocessing.vision import ResNetImageClassifierPreprocessor as ResNetImageClassifierPreprocessor
from .preprocessing.vision import RetinaNetObjectDetectorPreprocessor as RetinaNetObjectDetectorPreprocessor
from .preprocessing.vision import SAMImageSegmenterPreprocessor as SAMImageSegmenterPreprocessor
from .preprocessing.vision import SegFormerImageSegmenterPreprocessor as SegFormerImageSegmenterPreprocessor
from .preprocessing.vision import SwinTransformerImageClassifierPreprocessor as SwinTransformerImageClassifierPreprocessor
from .preprocessing.vision import VGGImageClassifierPreprocessor as VGGImageClassifierPreprocessor
from .preprocessing.vision import ViTImageClassifierPreprocessor as ViTImageClassifierPreprocessor
from .preprocessing.vision import XceptionImageClassifierPreprocessor as XceptionImageClassifierPreprocessor
from .backbones._gemma3_vision import Gemma3VisionEncoder as _Gemma3VisionEncoder
from .backbones.albert import AlbertBackbone as _AlbertBackbone
from .backbones.bart import BartBackbone as _BartBackbone
from .backbones.basnet import BASNetBackbone as _BASNetBackbone
from .backbones.bert import BertBackbone as _BertBackbone
from .backbones.blip2.backbone import BLIP2Backbone as _BLIP2Backbone
from .backbones.blip2.flan_t5 import BLIP2FlanT5 as _BLIP2FlanT5
from .backbones.blip2.opt import BLIP2CustomOPT as _BLIP2CustomOPT
from .backbones.blip2.qformer import BLIP2QFormer as _BLIP2QFormer
from .backbones.blip2.vision import BLIP2VisionEncoder as _BLIP2VisionEncoder
from .backbones.bloom import BloomBackbone as _BloomBackbone
from .backbones.clip import CLIPBackbone as _CLIPBackbone
from .backbones.clip import CLIPTextEncoder as _CLIPTextEncoder
from .backbones.clip import CLIPVisionEncoder as _CLIPVisionEncoder
from .backbones.cspnet import CSPNetBackbone as _CSPNetBackbone
from .backbones.d_fine.backbone import DFineBackbone as _DFineBackbone
from .backbones.deberta_v3 import DebertaV3Backbone as _DebertaV3Backbone
from .backbones.deeplab_v3 import DeepLabV3Backbone as _DeepLabV3Backbone
from .backbones.deit import DeiTBackbone as _DeiTBackbone
from .backbones.densenet import DenseNetBackbone as _DenseNetBackbone
from .backbones.depth_anything import DepthAnythingBackbone as _DepthAnythingBackbone
from .backbones.diffusion_gemma import DiffusionGemmaBackbone as _DiffusionGemmaBackbone
from .backbones.dinov2 import DINOV2Backbone as _DINOV2Backbone
from .backbones.dinov3 import DINOV3Backbone as _DINOV3Backbone
from .backbones.distil_bert import DistilBertBackbone as _DistilBertBackbone
from .backbones.ed_rec import EdRecBackbone as _EdRecBackbone
from .backbones.efficientnet import EfficientNetBackbone as _EfficientNetBackbone
from .backbones.electra import ElectraBackbone as _ElectraBackbone
from .backbones.embedding_gemma2 import EmbeddingGemma2Backbone as _EmbeddingGemma2Backbone
from .backbones.esm import ESMBackbone as _ESMBackbone
from .backbones.f_net import FNetBackbone as _FNetBackbone
from .backbones.falcon import FalconBackbone as _FalconBackbone
from .backbones.flux import FluxBackbone as _FluxBackbone
from .backbones.gemma import GemmaBackbone as _GemmaBackbone
from .backbones.gemma3 import Gemma3Backbone as _Gemma3Backbone
from .backbones.gemma3n.backbone import Gemma3nBackbone as _Gemma3nBackbone
from .backbones.gemma4.audio import Gemma4AudioEncoder as _Gemma4AudioEncoder
from .backbones.gemma4.backbone import Gemma4Backbone as _Gemma4Backbone
from .backbones.gemma4.vision import Gemma4VisionEncoder as _Gemma4VisionEncoder
from .backbones.gpt2 import GPT2Backbone as _GPT2Backbone
from .backbones.gpt_neo_x import GPTNeoXBackbone as _GPTNeoXBackbone
from .backbones.gpt_oss import GptOssBackbone as _GptOssBackbone
from .backbones.hgnetv2 import HGNetV2Backbone as _HGNetV2Backbone
from .backbones.llama import LlamaBackbone as _LlamaBackbone
from .backbones.llama3 import Llama3Backbone as _Llama3Backbone
from .backbones.metaclip_2 import MetaCLIP2Backbone as _MetaCLIP2Backbone
from .backbones.metaclip_2 import MetaCLIP2TextEncoder as _MetaCLIP2TextEncoder
from .backbones.metaclip_2 import MetaCLIP2VisionEncoder as _MetaCLIP2VisionEncoder
from .backbones.mistral import MistralBackbone as _MistralBackbone
from .backbones.mit import MiTBackbone as _MiTBackbone
from .backbones.mixtral import MixtralBackbone as _MixtralBackbone
from .backbones.mobilenet import MobileNetBackbone as _MobileNetBackbone
from .backbones.mobilenetv5.backbone import MobileNetV5Backbone as _MobileNetV5Backbone
from .backbones.modern_bert import ModernBertBackbone as _ModernBertBackbone
from .backbones.moonshine import MoonshineBackbone as _MoonshineBackbone
from .backbones.opt import OPTBackbone as _OPTBackbone
from .backbones.pali_gemma import PaliGemmaBackbone as _PaliGemmaBackbone
from .backbones.parseq import PARSeqBackbone as _PARSeqBackbone
from .backbones.phi3 import Phi3Backbone as _Phi3Backbone
from .backbones.qwen import QwenBackbone as _QwenBackbone
from .backbones.qwen3 import Qwen3Backbone as _Qwen3Backbone
from .backbones.qwen3_5.backbone import Qwen3_5Backbone as _Qwen3_5Backbone
from .backbones.qwen3_5.moe import Qwen3_5MoeBackbone as _Qwen3_5MoeBackbone
from .backbones.qwen3_5.vision import Qwen3_5VisionEncoder as _Qwen3_5VisionEncoder
from .backbones.qwen3_moe import Qwen3MoeBackbone as _Qwen3MoeBackbone
from .backbones.qwen_moe import QwenMoeBackbone as _QwenMoeBackbone
from .backbones.resnet import ResNetBackbone as _ResNetBackbone
from .backbones.retinanet import RetinaNetBackbone as _RetinaNetBackbone
from .backbones.roberta import RobertaBackbone as _RobertaBackbone
from .backbones.roformer_v2 import RoformerV2Backbone as _RoformerV2Backbone
from .backbones.rqvae import RQVAEBackbone as _RQVAEBackbone
from .backbones.rwkv7 import RWKV7Backbone as _RWKV7Backbone
from .backbones.sam.backbone import SAMBackbone as _SAMBackbone
from .backbones.sam.mask_decoder import SAMMaskDecoder as _SAMMaskDecoder
from .backbones.sam.prompt_encoder import SAMPromptEncoder as _SAMPromptEncoder
from .backbones.sam3.backbone import SAM3PromptableConceptBackbone as _SAM3PromptableConceptBackbone
from .backbones.sam3.detr_decoder import SAM3DetrDecoder as _SAM3DetrDecoder
from .backbones.sam3.detr_encoder import SAM3DetrEncoder as _SAM3DetrEncoder
from .backbones.sam3.geometry import SAM3GeometryEncoder as _SAM3GeometryEncoder
from .backbones.sam3.mask_decoder import SAM3MaskDecoder as _SAM3MaskDecoder
from .backbones.sam3.text import SAM3TextEncoder as _SAM3TextEncoder
from .backbones.sam3.vision import SAM3VisionEncoder as _SAM3VisionEncoder
from .backbones.segformer import SegFormerBackbone as _SegFormerBackbone
from .backbones.siglip import SigLIPBackbone as _SigLIPBackbone
from .backbones.siglip import SigLIPTextEncoder as _SigLIPTextEncoder
from .backbones.siglip import SigLIPVisionEncoder as _SigLIPVisionEncoder
from .backbones.smollm3 import SmolLM3Backbone as _SmolLM3Backbone
from .backbones.stable_diffusion_3.backbone import StableDiffusion3Backbone as _StableDiffusion3Backbone
from .backbones.stable_diffusion_3.mmdit import MMDiT as _MMDiT
from .backbones.stable_diffusion_3.t5_encoder import T5Encoder as _T5Encoder
from .backbones.swin_transformer import SwinTransformerBackbone as _SwinTransformerBackbone
from .backbones.t5 import T5Backbone as _T5Backbone
from .backbones.t5_gemma import T5GemmaBackbone as _T5GemmaBackbone
from .backbones.t5_gemma2 import T5Gemma2Backbone as _T5Gemma2Backbone
from .backbones.vae import VAEBackbone as _VAEBackbone
from .backbones.vgg import VGGBackbone as _VGGBackbone
from .backbones.video_prism import VideoPrismBackbone as _VideoPrismBackbone
from .backbones.vit import ViTBackbone as _ViTBackbone
from .backbones.vit_det import ViTDetBackbone as _ViTDetBackbone
from .backbones.whisper import WhisperBackbone as _WhisperBackbone
from .backbones.xception import XceptionBackbone as _XceptionBackbone
from .backbones.xlm_roberta import XLMRobertaBackbone as _XLMRobertaBackbone
from .backbones.xlnet import XLNetBackbone as _XLNetBackbone

class AlbertBackbone(_AlbertBackbone):
    vocabulary_size: int
    num_layers: int
    num_heads: int
    embedding_dim: int
    hidden_dim: int
    intermediate_dim: int
    num_groups: int
    num_inner_repetitions: int
    dropout: float
    max_sequence_length: int
    num_segments: int

class BartBackbone(_BartBackbone):
    vocabulary_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int
    dropout: float
    max_sequence_length: int

class BASNetBackbone(_BASNetBackbone):
    num_classes: int
    image_shape: Sequence[int | None]
    projection_filters: int

class BertBackbone(_BertBackbone):
    vocabulary_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int
    dropout: float
    max_sequence_length: int
    num_segments: int

class BLIP2Backbone(_BLIP2Backbone):
    vision_encoder: BLIP2VisionEncoder | None
    qformer: BLIP2QFormer | None
    language_model: BLIP2CustomOPT | BLIP2FlanT5

class BLIP2FlanT5(_BLIP2FlanT5):
    num_layers: int
    num_heads: int
    intermediate_dim: int
    num_query_tokens: int
    qformer_hidden_dim: int
    key_value_dim: int | None
    dropout: float
    layer_norm_epsilon: float

class BLIP2CustomOPT(_BLIP2CustomOPT):
    vocabulary_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int
    num_query_tokens: int
    dropout: float
    max_sequence_length: int
    qformer_hidden_dim: int
    initializer_range: float
    layer_norm_epsilon: float

class BLIP2QFormer(_BLIP2QFormer):
    num_query_tokens: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int
    vision_dim: int
    cross_attention_frequency: int
    dropout: float
    layer_norm_epsilon: float

class BLIP2VisionEncoder(_BLIP2VisionEncoder):
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int
    use_patch_bias: bool
    use_class_token: bool
    use_mha_bias: bool
    use_mlp_bias: bool
    dropout_rate: float
    layer_norm_epsilon: float
    initializer_range: float

class BloomBackbone(_BloomBackbone):
    vocabulary_size: int
    num_layers: int
    hidden_dim: int
    intermediate_dim: int
    dropout: float
    layer_norm_epsilon: float

class CLIPVisionEncoder(_CLIPVisionEncoder):
    patch_size: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    intermediate_dim: int
    intermediate_activation: str | Mapping[str, Any]
    image_shape: Sequence[int]

class CLIPTextEncoder(_CLIPTextEncoder):
    vocabulary_size: int
    embedding_dim: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    intermediate_dim: int
    intermediate_activation: str | Mapping[str, Any]
    max_sequence_length: int

class CLIPBackbone(_CLIPBackbone):
    vision_encoder: CLIPVisionEncoder
    text_encoder: CLIPTextEncoder
    projection_dim: int

class CSPNetBackbone(_CSPNetBackbone):
    stem_filters: int | Sequence[int]
    stem_kernel_size: int | Sequence[int]
    stem_strides: int
    stackwise_depth: Sequence[int]
    stackwise_strides: int | Sequence[int]
    stackwise_num_filters: Sequence[int]
    block_type: str
    groups: int
    stage_type: str | None
    activation: str | None
    output_strides: int
    bottle_ratio: float | Sequence[float]
    block_ratio: float | Sequence[float]
    expand_ratio: float | Sequence[float]
    stem_padding: str
    stem_pooling: str | None
    avg_down: bool
    down_growth: bool
    cross_linear: bool
    image_shape: Sequence[int | None]

class DFineBackbone(_DFineBackbone):
    decoder_in_channels: Sequence[int]
    encoder_hidden_dim: int
    num_labels: int
    num_denoising: int
    learn_initial_query: bool
    num_queries: int
    anchor_image_size: Sequence[int]
    feat_strides: Sequence[int]
    num_feature_levels: int
    hidden_dim: int
    encoder_in_channels: Sequence[int]
    encode_proj_layers: Sequence[int]
    num_attention_heads: int
    encoder_ffn_dim: int
    num_encoder_layers: int
    hidden_expansion: float
    depth_multiplier: float
    eval_idx: int
    num_decoder_layers: int
    decoder_attention_heads: int
    decoder_ffn_dim: int
    decoder_n_points: int | Sequence[int]
    lqe_hidden_dim: int
    num_lqe_layers: int
    decoder_method: str
    label_noise_ratio: float
    box_noise_scale: float
    seed: int | None
    image_shape: Sequence[int | None]

class DebertaV3Backbone(_DebertaV3Backbone):
    vocabulary_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int
    dropout: float

class DeepLabV3Backbone(_DeepLabV3Backbone):
    spatial_pyramid_pooling_key: str
    upsampling_size: int | Sequence[int]
    dilation_rates: Sequence[int]
    low_level_feature_key: str | None
    projection_filters: int
    image_shape: Sequence[int | None]

class DeiTBackbone(_DeiTBackbone):
    image_shape: Sequence[int]
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int
    dropout_rate: float
    attention_dropout: float
    layer_norm_epsilon: float
    use_mha_bias: bool

class DenseNetBackbone(_DenseNetBackbone):
    stackwise_num_repeats: Sequence[int]
    image_shape: Sequence[int | None]
    compression_ratio: float
    growth_rate: int

class DepthAnythingBackbone(_DepthAnythingBackbone):
    reassemble_factors: Sequence[float]
    neck_hidden_dims: Sequence[int]
    fusion_hidden_dim: int
    head_hidden_dim: int
    head_in_index: int

class DiffusionGemmaBackbone(_DiffusionGemmaBackbone):
    vocabulary_size: int
    image_size: int | None
    num_layers: int
    num_query_heads: int
    num_key_value_heads: int
    hidden_dim: int
    intermediate_dim: int
    head_dim: int
    query_head_dim_normalize: bool
    attention_logit_soft_cap: float | None
    final_logit_soft_cap: float | None
    use_sliding_window_attention: bool
    sliding_window_size: int
    sliding_window_pattern: int
    global_head_dim: int | None
    local_rope_scaling_factor: float
    global_rope_scaling_factor: float
    vision_encoder: Gemma4VisionEncoder | None
    layer_norm_epsilon: float
    use_bidirectional_attention: bool
    use_vision_bidirectional_attention: bool
    dropout: float
    num_global_key_value_heads: int | None
    global_rope_wavelength: float | None
    local_rope_wavelength: float | None
    global_rope_partial_rotary_factor: float
    enable_moe_block: bool
    num_experts: int | None
    expert_intermediate_dim: int | None
    num_experts_per_token: int

class DINOV2Backbone(_DINOV2Backbone):
    patch_size: int
    num_layers: int
    hidden_dim: int
    num_heads: int
    intermediate_dim: int
    layer_scale_init_value: float
    num_register_tokens: int
    use_mask_token: bool
    use_swiglu_ffn: bool
    dropout_rate: float
    drop_path_rate: float
    image_shape: Sequence[int]
    position_embedding_shape: Sequence[int]
    antialias_in_interpolation: bool
    apply_layernorm: bool

class DINOV3Backbone(_DINOV3Backbone):
    patch_size: int
    num_layers: int
    hidden_dim: int
    num_heads: int
    intermediate_dim: int
    layer_scale_init_value: float
    num_register_tokens: int
    use_mask_token: bool
    hidden_activation: str | dict[str, Any]
    use_gated_mlp: bool
    use_query_bias: bool
    use_key_bias: bool
    use_value_bias: bool
    use_proj_bias: bool
    use_mlp_bias: bool
    attention_dropout: float
    drop_path_rate: float
    layer_norm_eps: float
    image_shape: Sequence[int | None]
    apply_layernorm: bool

class DistilBertBackbone(_DistilBertBackbone):
    vocabulary_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int
    dropout: float
    max_sequence_length: int

class EdRecBackbone(_EdRecBackbone):
    vocab_size: int
    num_layers_enc: int
    num_layers_dec: int
    hidden_dim: int
    intermediate_dim: int
    num_heads: int
    dropout: float
    epsilon: float

class EfficientNetBackbone(_EfficientNetBackbone):
    stackwise_kernel_sizes: Sequence[int]
    stackwise_num_repeats: Sequence[int]
    stackwise_input_filters: Sequence[int]
    stackwise_output_filters: Sequence[int]
    stackwise_expansion_ratios: Sequence[float]
    stackwise_squeeze_and_excite_ratios: Sequence[float]
    stackwise_strides: Sequence[int]
    stackwise_block_types: Sequence[str]
    stackwise_force_input_filters: Sequence[int]
    dropout: float
    depth_divisor: int
    min_depth: int | None
    input_shape: Sequence[int | None]
    data_format: str | None
    activation: str | None
    include_stem_padding: bool
    use_depth_divisor_as_min_depth: bool
    cap_round_filter_decrease: bool
    stem_conv_padding: str
    batch_norm_momentum: float
    batch_norm_epsilon: float
    projection_activation: str | None
    num_features: int

class ElectraBackbone(_ElectraBackbone):
    vocab_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    embedding_dim: int
    intermediate_dim: int
    dropout: float
    max_sequence_length: int
    num_segments: int

class EmbeddingGemma2Backbone(_EmbeddingGemma2Backbone):
    vocabulary_size: int
    image_size: int | None
    num_layers: int
    num_query_heads: int
    num_key_value_heads: int
    hidden_dim: int
    intermediate_dim: int
    head_dim: int
    use_sliding_window_attention: bool
    sliding_window_size: int
    sliding_window_pattern: int
    global_head_dim: int | None
    local_rope_scaling_factor: float
    global_rope_scaling_factor: float
    vision_encoder: Gemma4VisionEncoder | None
    audio_encoder: Gemma4AudioEncoder | None
    layer_norm_epsilon: float
    dropout: float
    embedding_dim: int | None
    num_global_key_value_heads: int | None
    hidden_size_per_layer_input: int
    global_rope_wavelength: float | None
    local_rope_wavelength: float | None
    global_rope_partial_rotary_factor: float

class ESMBackbone(_ESMBackbone):
    vocabulary_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int
    use_bias: bool
    activation: str | dict[str, Any]
    dropout: float
    max_sequence_length: int
    layer_norm_eps: float
    use_pre_layer_norm: bool
    position_embedding_type: str

class FNetBackbone(_FNetBackbone):
    vocabulary_size: int
    num_layers: int
    hidden_dim: int
    intermediate_dim: int
    dropout: float
    max_sequence_length: int
    num_segments: int

class FalconBackbone(_FalconBackbone):
    vocabulary_size: int
    num_layers: int
    num_attention_heads: int
    hidden_dim: int
    intermediate_dim: int
    layer_norm_epsilon: float
    attention_dropout_rate: float
    feedforward_dropout_rate: float

class FluxBackbone(_FluxBackbone):
    input_channels: int
    hidden_size: int
    mlp_ratio: float
    num_heads: int
    depth: int
    depth_single_blocks: int
    axes_dim: Sequence[int]
    theta: float
    use_bias: bool
    guidance_embed: bool
    image_shape: Sequence[int | None]
    text_shape: Sequence[int | None]
    image_ids_shape: Sequence[int | None]
    text_ids_shape: Sequence[int | None]
    y_shape: Sequence[int | None]

class GemmaBackbone(_GemmaBackbone):
    vocabulary_size: int
    num_layers: int
    num_query_heads: int
    num_key_value_heads: int
    hidden_dim: int
    intermediate_dim: int
    query_head_dim_normalize: bool
    use_post_ffw_norm: bool
    use_post_attention_norm: bool
    attention_logit_soft_cap: float | None
    final_logit_soft_cap: float | None
    use_sliding_window_attention: bool
    sliding_window_size: int
    layer_norm_epsilon: float
    dropout: float

class Gemma3VisionEncoder(_Gemma3VisionEncoder):
    patch_size: int
    num_heads: int
    hidden_dim: int
    num_layers: int
    intermediate_dim: int
    output_dim: int
    pool_size: int
    layer_norm_epsilon: float

class Gemma3Backbone(_Gemma3Backbone):
    vocabulary_size: int
    image_size: int | None
    num_layers: int
    num_query_heads: int
    num_key_value_heads: int
    hidden_dim: int
    intermediate_dim: int
    query_head_dim_normalize: bool
    use_query_key_norm: bool
    use_post_ffw_norm: bool
    use_post_attention_norm: bool
    attention_logit_soft_cap: float | None
    final_logit_soft_cap: float | None
    use_sliding_window_attention: bool
    sliding_window_size: int
    local_rope_scaling_factor: float
    global_rope_scaling_factor: float
    vision_encoder: Gemma3VisionEncoder | None
    layer_norm_epsilon: float
    use_bidirectional_attention: bool
    dropout: float
    pooling_intermediate_dim: int | None
    embedding_dim: int | None

class Gemma3nBackbone(_Gemma3nBackbone):
    text_vocab_size: int
    text_hidden_size: int
    num_hidden_layers: int
    pad_token_id: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: Sequence[int]
    hidden_activation: str
    layer_types: Sequence[str]
    sliding_window: int | None
    rope_theta: float
    max_position_embeddings: int
    vocab_size_per_layer_input: int
    hidden_size_per_layer_input: int
    altup_num_inputs: int
    laurel_rank: int
    attention_bias: bool
    attention_dropout: float
    rope_scaling: float | None
    rope_local_base_freq: float
    activation_sparsity_pattern: Sequence[float] | None
    altup_coef_clip: float | None
    altup_active_idx: int
    altup_correct_scale: bool
    num_kv_shared_layers: int
    final_logit_soft_cap: float | None
    vision_encoder_config: Mapping[str, Any] | None
    vision_hidden_size: int
    vision_vocab_size: int
    vision_vocab_offset: int
    vision_soft_tokens_per_image: int
    image_token_id: int
    audio_encoder_config: Mapping[str, Any] | None
    audio_hidden_size: int
    audio_vocab_size: int
    audio_vocab_offset: int
    audio_soft_tokens_per_image: int
    audio_token_id: int
    rms_norm_eps: float

class Gemma4AudioEncoder(_Gemma4AudioEncoder):
    input_feat_size: int
    hidden_size: int
    num_heads: int
    num_layers: int
    chunk_size: int
    context_left: int
    context_right: int
    logit_cap: float
    invalid_logit_value: float
    conv_kernel_size: int
    reduction_factor: int
    residual_weight: float
    gradient_clipping: float
    sscp_conv_channels: Sequence[int]
    sscp_kernel_sizes: Sequence[Sequence[int]]
    sscp_stride_sizes: Sequence[Sequence[int]]
    output_proj_dims: int | None
    output_dim: int
    norm_eps: float
    sscp_norm_eps: float

class Gemma4Backbone(_Gemma4Backbone):
    vocabulary_size: int
    image_size: int | None
    num_layers: int
    num_query_heads: int
    num_key_value_heads: int
    hidden_dim: int
    intermediate_dim: int
    head_dim: int
    query_head_dim_normalize: bool
    attention_logit_soft_cap: float | None
    final_logit_soft_cap: float | None
    use_sliding_window_attention: bool
    sliding_window_size: int
    sliding_window_pattern: int
    global_head_dim: int | None
    local_rope_scaling_factor: float
    global_rope_scaling_factor: float
    vision_encoder: Gemma4VisionEncoder | None
    audio_encoder: Gemma4AudioEncoder | None
    layer_norm_epsilon: float
    use_bidirectional_attention: bool
    use_vision_bidirectional_attention: bool
    dropout: float
    pooling_intermediate_dim: int | None
    embedding_dim: int | None
    num_kv_shared_layers: int
    num_global_key_value_heads: int | None
    hidden_size_per_layer_input: int
    vocab_size_per_layer_input: int | None
    global_rope_wavelength: float | None
    local_rope_wavelength: float | None
    global_rope_partial_rotary_factor: float
    use_double_wide_mlp: bool
    enable_moe_block: bool
    num_experts: int | None
    expert_intermediate_dim: int | None
    num_experts_per_token: int

class Gemma4VisionEncoder(_Gemma4VisionEncoder):
    image_size: int
    num_heads: int
    hidden_dim: int
    num_layers: int
    intermediate_dim: int
    output_dim: int
    layer_norm_epsilon: float
    dropout: float
    use_clipped_linears: bool
    standardize: bool

class GPT2Backbone(_GPT2Backbone):
    vocabulary_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int
    dropout: float
    max_sequence_length: int

class GPTNeoXBackbone(_GPTNeoXBackbone):
    vocabulary_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int
    dropout: float
    rotary_percentage: float
    layer_norm_epsilon: float
    max_sequence_length: int

class GptOssBackbone(_GptOssBackbone):
    vocabulary_size: int
    num_layers: int
    num_query_heads: int
    hidden_dim: int
    intermediate_dim: int
    num_key_value_heads: int
    num_experts: int
    top_k: int
    layer_norm_epsilon: float
    sliding_window: int | None
    head_dim: int | None
    dropout: float
    output_router_logits: bool
    layer_types: Sequence[str] | None

class HGNetV2Backbone(_HGNetV2Backbone):
    depths: Sequence[int]
    embedding_size: int
    hidden_sizes: Sequence[int]
    stem_channels: Sequence[int]
    hidden_act: str | None
    use_learnable_affine_block: bool
    stackwise_stage_filters: Sequence[Sequence[int]]
    apply_downsample: Sequence[bool]
    use_lightweight_conv_block: Sequence[bool]
    image_shape: Sequence[int | None]

class LlamaBackbone(_LlamaBackbone):
    vocabulary_size: int
    num_layers: int
    num_query_heads: int
    hidden_dim: int
    intermediate_dim: int
    num_key_value_heads: int
    rope_position_scaling_factor: float
    rope_frequency_adjustment_factor: float | None
    rope_low_freq_factor: float | None
    rope_high_freq_factor: float | None
    rope_pretraining_sequence_length: int | None
    layer_norm_epsilon: float
    dropout: float
    tie_word_embeddings: bool

class Llama3Backbone(_Llama3Backbone, LlamaBackbone):
    vocabulary_size: int
    num_layers: int
    num_query_heads: int
    hidden_dim: int
    intermediate_dim: int
    num_key_value_heads: int
    rope_position_scaling_factor: float
    rope_frequency_adjustment_factor: float | None
    rope_low_freq_factor: float | None
    rope_high_freq_factor: float | None
    rope_pretraining_sequence_length: int | None
    layer_norm_epsilon: float
    dropout: float
    tie_word_embeddings: bool

class MetaCLIP2VisionEncoder(_MetaCLIP2VisionEncoder):
    patch_size: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    intermediate_dim: int
    intermediate_activation: str | Mapping[str, Any]
    image_shape: Sequence[int]

class MetaCLIP2TextEncoder(_MetaCLIP2TextEncoder):
    vocabulary_size: int
    embedding_dim: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    intermediate_dim: int
    intermediate_activation: str | Mapping[str, Any]
    max_sequence_length: int

class MetaCLIP2Backbone(_MetaCLIP2Backbone):
    vision_encoder: MetaCLIP2VisionEncoder
    text_encoder: MetaCLIP2TextEncoder
    projection_dim: int

class MistralBackbone(_MistralBackbone):
    vocabulary_size: int
    num_layers: int
    num_query_heads: int
    hidden_dim: int
    intermediate_dim: int
    num_key_value_heads: int
    layer_norm_epsilon: float
    sliding_window: int | None
    head_dim: int | None
    dropout: float

class MiTBackbone(_MiTBackbone):
    layerwise_depths: Sequence[int]
    num_layers: int
    layerwise_num_heads: Sequence[int]
    layerwise_sr_ratios: Sequence[int]
    max_drop_path_rate: float
    layerwise_patch_sizes: Sequence[int]
    layerwise_strides: Sequence[int]
    image_shape: Sequence[int | None]
    hidden_dims: Sequence[int] | None

class MixtralBackbone(_MixtralBackbone):
    vocabulary_size: int
    num_layers: int
    num_query_heads: int
    hidden_dim: int
    intermediate_dim: int
    num_key_value_heads: int
    num_experts: int
    top_k: int
    router_jitter_noise: float
    layer_norm_epsilon: float
    router_aux_loss_coef: float
    sliding_window: int | None
    dropout: float
    output_router_logits: bool

class MobileNetBackbone(_MobileNetBackbone):
    stackwise_expansion: Sequence[Sequence[float]]
    stackwise_num_blocks: Sequence[int]
    stackwise_num_filters: Sequence[Sequence[float]]
    stackwise_kernel_size: Sequence[Sequence[int]]
    stackwise_num_strides: Sequence[Sequence[int]]
    stackwise_se_ratio: Sequence[Sequence[float | None]]
    stackwise_activation: Sequence[Sequence[str]]
    stackwise_padding: Sequence[Sequence[int]]
    output_num_filters: int | None
    depthwise_filters: int
    depthwise_stride: int
    depthwise_residual: bool
    last_layer_filter: float
    squeeze_and_excite: float | None
    image_shape: Sequence[int | None]
    input_activation: str
    output_activation: str

class MobileNetV5Backbone(_MobileNetV5Backbone):
    stackwise_block_types: Sequence[Sequence[str]]
    stackwise_num_blocks: Sequence[int]
    stackwise_num_filters: Sequence[Sequence[float]]
    stackwise_strides: Sequence[Sequence[int]]
    stackwise_act_layers: Sequence[Sequence[str | None]]
    stackwise_exp_ratios: Sequence[Sequence[float]]
    stackwise_se_ratios: Sequence[Sequence[float | None]]
    stackwise_dw_kernel_sizes: Sequence[Sequence[int]]
    stackwise_dw_start_kernel_sizes: Sequence[Sequence[int]]
    stackwise_dw_end_kernel_sizes: Sequence[Sequence[int]]
    stackwise_exp_kernel_sizes: Sequence[Sequence[int]]
    stackwise_pw_kernel_sizes: Sequence[Sequence[int]]
    stackwise_num_heads: Sequence[Sequence[int | None]]
    stackwise_key_dims: Sequence[Sequence[int | None]]
    stackwise_value_dims: Sequence[Sequence[int | None]]
    stackwise_kv_strides: Sequence[Sequence[int]]
    stackwise_use_cpe: Sequence[Sequence[bool]]
    filters: int
    stem_bias: bool
    fix_stem: bool
    num_features: int
    pad_type: str
    use_msfa: bool
    msfa_indices: int | Sequence[int]
    msfa_output_resolution: int | Sequence[int]
    act_layer: str
    norm_layer: str
    se_layer: str | Mapping[str, Any] | None
    se_from_exp: bool
    round_chs_fn: Callable[[float], int]
    drop_path_rate: float
    layer_scale_init_value: float | None
    image_shape: Sequence[int | None]

class ModernBertBackbone(_ModernBertBackbone):
    vocabulary_size: int
    hidden_dim: int
    intermediate_dim: int
    num_layers: int
    num_heads: int
    local_attention_window: int
    global_attn_every_n_layers: int
    rotary_max_wavelength: float
    layer_norm_epsilon: float

class MoonshineBackbone(_MoonshineBackbone):
    vocabulary_size: int
    filter_dim: int
    encoder_num_layers: int
    decoder_num_layers: int
    hidden_dim: int
    intermediate_dim: int
    encoder_num_heads: int
    decoder_num_heads: int
    feedforward_expansion_factor: int
    encoder_use_swiglu_activation: bool
    decoder_use_swiglu_activation: bool
    max_position_embeddings: int
    pad_head_dim_to_multiple_of: int | None
    partial_rotary_factor: float
    dropout: float
    initializer_range: float
    rope_theta: float
    attention_bias: bool
    attention_dropout: float

class OPTBackbone(_OPTBackbone):
    vocabulary_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int
    dropout: float
    max_sequence_length: int

class PaliGemmaBackbone(_PaliGemmaBackbone):
    vocabulary_size: int
    image_size: int
    num_layers: int
    num_query_heads: int
    num_key_value_heads: int
    hidden_dim: int
    intermediate_dim: int
    vit_patch_size: int
    vit_num_heads: int
    vit_hidden_dim: int
    vit_num_layers: int
    vit_pooling: str | None
    vit_classifier_activation: str | Mapping[str, Any] | None
    query_head_dim_normalize: bool
    use_post_ffw_norm: bool
    use_post_attention_norm: bool
    attention_logit_soft_cap: float | None
    final_logit_soft_cap: float | None
    use_sliding_window_attention: bool
    sliding_window_size: int
    layer_norm_epsilon: float
    dropout: float

class PARSeqBackbone(_PARSeqBackbone):
    vocabulary_size: int
    max_label_length: int
    decoder_hidden_dim: int
    num_decoder_layers: int
    num_decoder_heads: int
    decoder_mlp_dim: int
    dropout_rate: float
    attention_dropout: float

class Phi3Backbone(_Phi3Backbone):
    vocabulary_size: int
    num_layers: int
    hidden_dim: int
    intermediate_dim: int
    num_query_heads: int
    num_key_value_heads: int
    layer_norm_epsilon: float
    dropout: float
    max_sequence_length: int
    pretraining_sequence_length: int
    rope_scaling_type: str | None
    rope_scaling_short_factor: Sequence[float] | None
    rope_scaling_long_factor: Sequence[float] | None

class QwenBackbone(_QwenBackbone):
    vocabulary_size: int
    num_layers: int
    num_query_heads: int
    num_key_value_heads: int
    hidden_dim: int
    intermediate_dim: int
    layer_norm_epsilon: float
    dropout: float
    tie_word_embeddings: bool
    use_sliding_window_attention: bool
    sliding_window_size: int

class Qwen3Backbone(_Qwen3Backbone):
    vocabulary_size: int
    num_layers: int
    num_query_heads: int
    num_key_value_heads: int
    head_dim: int | None
    hidden_dim: int
    intermediate_dim: int
    layer_norm_epsilon: float
    dropout: float
    tie_word_embeddings: bool
    sliding_window_size: int | None

class Qwen3_5Backbone(_Qwen3_5Backbone):
    vocabulary_size: int
    num_layers: int
    num_query_heads: int
    num_key_value_heads: int
    head_dim: int
    hidden_dim: int
    intermediate_dim: int
    partial_rotary_factor: float
    layer_norm_epsilon: float
    dropout: float
    tie_word_embeddings: bool
    sliding_window_size: int | None
    linear_num_key_heads: int
    linear_num_value_heads: int
    linear_key_head_dim: int
    linear_value_head_dim: int
    linear_conv_kernel_dim: int
    vision_encoder: Qwen3_5VisionEncoder | None
    mrope_section: list[int] | None

class Qwen3_5MoeBackbone(_Qwen3_5MoeBackbone):
    vocabulary_size: int
    num_layers: int
    num_query_heads: int
    num_key_value_heads: int
    head_dim: int
    hidden_dim: int
    moe_intermediate_dim: int
    shared_expert_intermediate_size: int
    num_experts: int
    top_k: int
    partial_rotary_factor: float
    layer_norm_epsilon: float
    dropout: float
    tie_word_embeddings: bool
    sliding_window_size: int | None
    linear_num_key_heads: int
    linear_num_value_heads: int
    linear_key_head_dim: int
    linear_value_head_dim: int
    linear_conv_kernel_dim: int
    vision_encoder: Qwen3_5VisionEncoder | None
    mrope_section: list[int] | None
    router_aux_loss_coefficient: float

class Qwen3_5VisionEncoder(_Qwen3_5VisionEncoder):
    depth: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    in_channels: int
    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    num_position_embeddings: int

class Qwen3MoeBackbone(_Qwen3MoeBackbone):
    vocabulary_size: int
    num_layers: int
    num_query_heads: int
    num_key_value_heads: int
    hidden_dim: int
    intermediate_dim: int
    moe_intermediate_dim: int
    num_experts: int
    head_dim: int | None
    top_k: int
    norm_top_k_prob: bool
    decoder_sparse_step: int
    layer_norm_epsilon: float
    dropout: float
    tie_word_embeddings: bool
    sliding_window_size: int | None
    router_aux_loss_coefficient: float
    mlp_only_layers: Sequence[int]

class QwenMoeBackbone(_QwenMoeBackbone):
    vocabulary_size: int
    num_layers: int
    num_query_heads: int
    num_key_value_heads: int
    hidden_dim: int
    intermediate_dim: int
    moe_intermediate_dim: int
    shared_expert_intermediate_dim: int
    num_experts: int
    top_k: int
    norm_top_k_prob: bool
    decoder_sparse_step: int
    layer_norm_epsilon: float
    dropout: float
    tie_word_embeddings: bool
    use_sliding_window_attention: bool
    sliding_window_size: int
    output_router_logits: bool
    router_aux_loss_coefficient: float
    mlp_only_layers: Sequence[int]

class ResNetBackbone(_ResNetBackbone):
    input_conv_filters: Sequence[int]
    input_conv_kernel_sizes: Sequence[int]
    stackwise_num_filters: Sequence[int]
    stackwise_num_blocks: Sequence[int]
    stackwise_num_strides: Sequence[int]
    block_type: str
    use_pre_activation: bool
    image_shape: Sequence[int | None]

class RetinaNetBackbone(_RetinaNetBackbone):
    min_level: int
    max_level: int
    use_p5: bool
    use_fpn_batch_norm: bool
    image_shape: Sequence[int | None]

class RobertaBackbone(_RobertaBackbone):
    vocabulary_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int
    dropout: float
    max_sequence_length: int

class RoformerV2Backbone(_RoformerV2Backbone):
    vocabulary_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int
    use_bias: bool
    activation: str | dict[str, Any]
    dropout: float
    num_segments: int

class RQVAEBackbone(_RQVAEBackbone):
    input_dim: int
    encoder_layer_dims: Sequence[int]
    output_dim: int
    decoder_layer_dims: Sequence[int]
    num_embeddings: int
    num_quantizers: int
    decay: float
    data_variance: float
    commitment_cost: float

class RWKV7Backbone(_RWKV7Backbone):
    hidden_size: int
    head_size: int
    num_layers: int
    vocabulary_size: int
    intermediate_dim: int
    gate_lora: int
    mv_lora: int
    aaa_lora: int
    decay_lora: int
    dropout_rate: float

class SAMBackbone(_SAMBackbone):
    prompt_encoder: SAMPromptEncoder
    mask_decoder: SAMMaskDecoder

class SAMMaskDecoder(_SAMMaskDecoder):
    hidden_size: int
    num_layers: int
    intermediate_dim: int
    num_heads: int
    embedding_dim: int
    num_multimask_outputs: int
    iou_head_depth: int
    iou_head_hidden_dim: int
    activation: str | dict[str, Any]

class SAMPromptEncoder(_SAMPromptEncoder):
    hidden_size: int
    image_embedding_size: Sequence[int]
    input_image_size: Sequence[int]
    mask_in_channels: int
    activation: str | dict[str, Any]

class SAM3PromptableConceptBackbone(_SAM3PromptableConceptBackbone):
    vision_encoder: SAM3VisionEncoder
    text_encoder: SAM3TextEncoder
    geometry_encoder: SAM3GeometryEncoder
    detr_encoder: SAM3DetrEncoder
    detr_decoder: SAM3DetrDecoder
    mask_decoder: SAM3MaskDecoder

class SAM3DetrDecoder(_SAM3DetrDecoder):
    image_shape: Sequence[int]
    patch_size: int
    num_layers: int
    hidden_dim: int
    intermediate_dim: int
    num_heads: int
    num_queries: int
    hidden_activation: str | dict[str, Any]
    dropout_rate: float
    layer_norm_epsilon: float

class SAM3DetrEncoder(_SAM3DetrEncoder):
    num_layers: int
    hidden_dim: int
    intermediate_dim: int
    num_heads: int
    hidden_activation: str | dict[str, Any]
    dropout_rate: float
    layer_norm_epsilon: float

class SAM3GeometryEncoder(_SAM3GeometryEncoder):
    num_layers: int
    hidden_dim: int
    intermediate_dim: int
    num_heads: int
    roi_size: int
    hidden_activation: str | dict[str, Any]
    dropout_rate: float
    layer_norm_epsilon: float

class SAM3MaskDecoder(_SAM3MaskDecoder):
    num_upsampling_stages: int
    hidden_dim: int
    num_heads: int
    dropout_rate: float
    layer_norm_epsilon: float

class SAM3TextEncoder(_SAM3TextEncoder):
    vocabulary_size: int
    embedding_dim: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    intermediate_dim: int
    intermediate_activation: str | dict[str, Any]
    max_sequence_length: int
    layer_norm_epsilon: float

class SAM3VisionEncoder(_SAM3VisionEncoder):
    image_shape: Sequence[int]
    patch_size: int
    num_layers: int
    hidden_dim: int
    intermediate_dim: int
    num_heads: int
    fpn_hidden_dim: int
    fpn_scale_factors: Sequence[float]
    pretrain_image_shape: Sequence[int]
    hidden_activation: str | dict[str, Any]
    rope_theta: float
    window_size: int
    global_attn_indexes: Sequence[int] | None
    attention_dropout_rate: float
    hidden_dropout_rate: float
    layer_norm_epsilon: float

class SegFormerBackbone(_SegFormerBackbone):
    projection_filters: int

class SigLIPVisionEncoder(_SigLIPVisionEncoder):
    patch_size: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    intermediate_dim: int
    intermediate_activation: str | Mapping[str, Any]
    layer_norm_epsilon: float
    image_shape: Sequence[int]

class SigLIPTextEncoder(_SigLIPTextEncoder):
    vocabulary_size: int
    embedding_dim: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    intermediate_dim: int
    intermediate_activation: str | Mapping[str, Any]
    layer_norm_epsilon: float
    max_sequence_length: int

class SigLIPBackbone(_SigLIPBackbone):
    vision_encoder: SigLIPVisionEncoder
    text_encoder: SigLIPTextEncoder

class SmolLM3Backbone(_SmolLM3Backbone):
    vocabulary_size: int
    hidden_dim: int
    intermediate_dim: int
    num_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    attention_bias: bool
    attention_dropout: float
    rope_layer_enabled_list: Sequence[bool]
    layer_types: Sequence[str]
    mlp_bias: bool
    layer_norm_epsilon: float
    max_position_embeddings: int
    rope_theta: float
    partial_rotary_factor: float

class StableDiffusion3Backbone(_StableDiffusion3Backbone):
    mmdit_patch_size: int
    mmdit_hidden_dim: int
    mmdit_num_layers: int
    mmdit_num_heads: int
    mmdit_position_size: int
    mmdit_qk_norm: str | None
    mmdit_dual_attention_indices: Sequence[int] | None
    t5: T5Encoder | None
    latent_channels: int
    output_channels: int
    num_train_timesteps: int
    shift: float
    image_shape: Sequence[int]
    data_format: str | None

class MMDiT(_MMDiT):
    patch_size: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    position_size: int
    mlp_ratio: float
    latent_shape: Sequence[int]
    context_shape: Sequence[int | None]
    pooled_projection_shape: Sequence[int]
    qk_norm: str | None
    data_format: str | None

class T5Encoder(_T5Encoder):
    vocabulary_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int
    key_value_dim: int | None
    dropout: float
    activation: str | dict[str, Any]
    use_gated_activation: bool
    layer_norm_epsilon: float
    tie_embedding_weights: bool

class SwinTransformerBackbone(_SwinTransformerBackbone):
    image_shape: Sequence[int]
    embed_dim: int
    depths: Sequence[int]
    num_heads: Sequence[int]
    window_size: int
    patch_size: int
    mlp_ratio: float
    qkv_bias: bool
    dropout_rate: float
    attention_dropout: float
    drop_path: float
    patch_norm: bool

class T5Backbone(_T5Backbone):
    vocabulary_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int
    key_value_dim: int | None
    dropout: float
    activation: str | dict[str, Any]
    use_gated_activation: bool
    layer_norm_epsilon: float
    tie_embedding_weights: bool

class T5GemmaBackbone(_T5GemmaBackbone):
    vocabulary_size: int
    encoder_hidden_dim: int
    encoder_intermediate_dim: int
    encoder_num_layers: int
    encoder_num_attention_heads: int
    encoder_num_key_value_heads: int
    encoder_layer_types: Sequence[str]
    decoder_hidden_dim: int
    decoder_intermediate_dim: int
    decoder_num_layers: int
    decoder_num_attention_heads: int
    decoder_num_key_value_heads: int
    dropout_rate: float
    rms_norm_eps: float
    query_pre_attn_scalar: float
    attention_bias: bool
    hidden_activation: str
    tie_word_embeddings: bool
    initializer_range: float
    attention_dropout: float
    sliding_window: int | None
    attn_logit_softcapping: float | None

class T5Gemma2Backbone(_T5Gemma2Backbone):
    vocabulary_size: int
    encoder_hidden_dim: int
    encoder_intermediate_dim: int
    encoder_num_layers: int
    encoder_num_attention_heads: int
    encoder_num_key_value_heads: int
    decoder_hidden_dim: int
    decoder_intermediate_dim: int
    decoder_num_layers: int
    decoder_num_attention_heads: int
    decoder_num_key_value_heads: int
    dropout_rate: float
    rms_norm_eps: float
    query_pre_attn_scalar: float
    attention_bias: bool
    hidden_activation: str
    tie_word_embeddings: bool
    initializer_range: float
    attention_dropout: float
    sliding_window: int | None
    attn_logit_softcapping: float | None
    rope_max_wavelength: float
    global_rope_scaling_factor: float
    encoder_rope_max_wavelength: float | None
    encoder_global_rope_scaling_factor: float | None
    use_query_key_norm: bool
    vision_encoder: Gemma3VisionEncoder | None

class VAEBackbone(_VAEBackbone):
    encoder_num_filters: Sequence[int]
    encoder_num_blocks: Sequence[int]
    decoder_num_filters: Sequence[int]
    decoder_num_blocks: Sequence[int]
    sampler_method: str
    input_channels: int
    sample_channels: int
    output_channels: int
    scale: float
    shift: float

class VGGBackbone(_VGGBackbone):
    stackwise_num_repeats: Sequence[int]
    stackwise_num_filters: Sequence[int]
    image_shape: Sequence[int | None]

class VideoPrismBackbone(_VideoPrismBackbone):
    num_frames: int
    patch_size: int
    hidden_dim: int
    intermediate_dim: int
    num_heads: int
    num_spatial_layers: int
    num_temporal_layers: int
    num_auxiliary_layers: int
    vocabulary_size: int
    num_text_layers: int
    dropout_rate: float
    attention_dropout_rate: float
    attention_logit_soft_cap: float | None
    layer_norm_epsilon: float
    image_shape: Sequence[int]

class ViTBackbone(_ViTBackbone):
    image_shape: Sequence[int]
    num_layers: int
    num_heads: int
    hidden_dim: int
    mlp_dim: int
    dropout_rate: float
    attention_dropout: float
    layer_norm_epsilon: float
    use_mha_bias: bool
    use_mlp_bias: bool
    use_class_token: bool
    use_patch_bias: bool

class ViTDetBackbone(_ViTDetBackbone):
    hidden_size: int
    num_layers: int
    intermediate_dim: int
    num_heads: int
    global_attention_layer_indices: Sequence[int]
    image_shape: Sequence[int | None]
    patch_size: int
    num_output_channels: int
    use_bias: bool
    use_abs_pos: bool
    use_rel_pos: bool
    window_size: int
    layer_norm_epsilon: float

class WhisperBackbone(_WhisperBackbone):
    vocabulary_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int
    num_mels: int
    dropout: float
    max_encoder_sequence_length: int
    max_decoder_sequence_length: int

class XceptionBackbone(_XceptionBackbone):
    stackwise_conv_filters: Sequence[Sequence[int]]
    stackwise_pooling: Sequence[bool]
    image_shape: Sequence[int | None]

class XLMRobertaBackbone(_XLMRobertaBackbone, RobertaBackbone):
    vocabulary_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int
    dropout: float
    max_sequence_length: int

class XLNetBackbone(_XLNetBackbone):
    vocabulary_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int
    dropout: float
    activation: str | dict[str, Any]
    kernel_initializer_range: float
    bias_initializer: str

ESM2Backbone = ESMBackbone

Qwen2Backbone = QwenBackbone

SmolLMBackbone = SmolLM3Backbone

Qwen2CausalLMPreprocessor = QwenCausalLMPreprocessor

SmolLMCausalLMPreprocessor = SmolLM3CausalLMPreprocessor

BertPreprocessor = BertTextClassifierPreprocessor

AlbertPreprocessor = AlbertTextClassifierPreprocessor

FNetPreprocessor = FNetTextClassifierPreprocessor

DistilBertPreprocessor = DistilBertTextClassifierPreprocessor

DebertaV3Preprocessor = DebertaV3TextClassifierPreprocessor

RobertaPreprocessor = RobertaTextClassifierPreprocessor

XLMRobertaPreprocessor = XLMRobertaTextClassifierPreprocessor

SmolLMTokenizer = SmolLM3Tokenizer

Qwen2Tokenizer = QwenTokenizer

ImageObjectDetectorPreprocessor = ObjectDetectorPreprocessor
