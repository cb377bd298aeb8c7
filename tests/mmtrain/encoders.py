"""Models of random weights, saved as exports."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from datamodules import ImagePipeline
from mmtrain.export import safetensors_folder
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import FeatureTower, TextTower, TimmTower

LAYERS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
XLMR = LAYERS | {"model_type": "xlm-roberta", "max_position_embeddings": 40, "pad_token_id": 1, "type_vocab_size": 1}

# a vision-language model 32 wide, whose patches of 8 pixels become tokens four by four
QWEN = {
    "model_type": "qwen2_5_vl",
    "image_token_id": 260,
    "vision_start_token_id": 261,
    "vision_end_token_id": 262,
    "video_token_id": 263,
    "vision_config": {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 8,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    },
    "text_config": LAYERS
    | {
        "vocab_size": 264,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
    },
}


def write_words(folder: Path) -> str:
    """A byte-level tokenizer with XLM-R's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(["forty-two"], trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet))
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 2)])
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return str(folder)


def saved(folder: Path, text: TextTower, tokenizer, image=None, projection: str = "linear") -> str:
    """A model of random weights in our own format; timm's `test_vit` is 64 wide and sees 160 pixels."""
    torch.manual_seed(0)
    image = image or TimmTower("test_vit")
    model = ImageTextModel(image, text, dimension=24, projection=projection)
    images = None if isinstance(image, FeatureTower) else ImagePipeline(size=160)
    encoder = Encoder(model, tokenizer, images, ["en", "lv"], "cosine", "a test", scale=20.0)
    folder.mkdir()
    safetensors_folder.write(encoder, folder)
    return str(folder)
