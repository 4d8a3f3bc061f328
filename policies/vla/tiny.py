"""Tiny VLAs with random weights, made without a hub: to try everything with, on a laptop, and for tests.

python -m policies.vla.tiny pi0 checkpoints/tiny-pi0
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

SIZES = "sizes.json"
"""In a checkpoint's folder: sizes that LeRobot's configuration of pi0 and pi0.5 has no words for."""
TOKENIZER = "tokenizer"
VLM = "vlm"
_SPECIAL = (
    "<pad>",
    "<bos>",
    "<eos>",
    "<unk>",
    "<fake_token_around_image>",
    "<image>",
    "<global-img>",
    "<end_of_utterance>",
)
_WORDS = """
pick put place move bring push pull lift touch reach go point take turn open close hold stack
up down the a it to on in into at of over next from with and left right front back
red green blue yellow orange purple white black small large
cube ball block box can cup bowl plate tray drawer peg hole table cloth gripper hand arm finger fingers tool
Task State Action
"""  # one token each; all else is spelt
_HEADS = 8  # LeRobot's shapes of pi0 hold for these alone


def write_tiny(
    kind: str,
    folder: Path,
    *,
    cameras: Sequence[str] = ("front",),
    state: int = 8,
    action: int = 8,
    chunk: int = 8,
    width: int = 64,
    layers: int = 2,
    side: int = 64,
    steps: int = 4,
    seed: int = 0,
) -> Path:
    """A checkpoint of `kind`, "smolvla", "pi0" or "pi05", in LeRobot's format, with random weights of `seed`.

    state, action: widths; chunk: actions in a chunk; width, layers: of the language model; side: of images, pixels.
    """
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.factory import get_policy_class, make_policy_config

    folder.mkdir(parents=True, exist_ok=True)
    tokens = _write_tokenizer(folder / TOKENIZER)
    sizes: dict[str, Any] = {
        "chunk_size": chunk,
        "n_action_steps": chunk,
        "max_state_dim": state,
        "max_action_dim": action,
    }
    if kind == "smolvla":
        _write_smolvlm(folder / VLM, folder / TOKENIZER, width, layers, side)
        sizes |= {
            "vlm_model_name": str(folder / VLM),
            "load_vlm_weights": False,
            "num_vlm_layers": layers,
            "expert_width_multiplier": 0.5,
            "num_steps": steps,
            "resize_imgs_with_padding": (side, side),
        }
    else:
        sizes |= {"num_inference_steps": steps, "image_resolution": (side, side), "dtype": "float32"}
        given = {"width": width, "expert": width // 2, "layers": layers, "vocabulary": tokens, "patch": side // 4}
        (folder / SIZES).write_text(json.dumps(given))
    config = make_policy_config(
        kind,
        input_features={
            f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, side, side)) for name in cameras
        }
        | {"observation.state": PolicyFeature(FeatureType.STATE, (state,))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (action,))},
        device="cpu",
        push_to_hub=False,
        **sizes,
    )
    # LeRobot prints what it does.
    with torch.random.fork_rng(devices=[]), resized(kind, folder), redirect_stdout(io.StringIO()):
        torch.manual_seed(seed)
        get_policy_class(kind)(config).save_pretrained(folder)
    return folder


@contextmanager
def resized(kind: str, folder: Path) -> Iterator[None]:
    """Meanwhile LeRobot makes pi0 and pi0.5 in the sizes that a checkpoint's folder names, if it names any."""
    if kind == "smolvla" or not (folder / SIZES).exists():
        yield
        return
    module: Any = import_module(f"lerobot.policies.{kind}.modeling_{kind}")
    sizes = json.loads((folder / SIZES).read_text())
    before = module.get_gemma_config, module.PaliGemmaWithExpertModel

    def config(variant: str) -> Any:
        wide = sizes["width"] if variant == "gemma_2b" else sizes["expert"]
        return module.GemmaConfig(wide, sizes["layers"], 2 * wide, _HEADS, 1, sizes["width"] // _HEADS)

    module.get_gemma_config = config
    module.PaliGemmaWithExpertModel = _paligemma(module.PaliGemmaWithExpertModel, sizes)
    try:
        yield
    finally:
        module.get_gemma_config, module.PaliGemmaWithExpertModel = before


def _paligemma(base: type[nn.Module], sizes: Mapping[str, int]) -> type[nn.Module]:
    """LeRobot's model of PaliGemma and expert, whose own constructor knows the published sizes alone."""
    from lerobot.policies.pi_gemma import PaliGemmaForConditionalGenerationWithPiGemma, PiGemmaForCausalLM
    from transformers.models.auto import CONFIG_MAPPING

    width, vocabulary = sizes["width"], sizes["vocabulary"]

    class Resized(base):  # type: ignore[misc,valid-type]
        def __init__(
            self,
            vlm: Any,
            expert: Any,
            use_adarms: Sequence[bool] = (False, False),
            precision: str = "float32",
            image_size: int = 64,
            freeze_vision_encoder: bool = False,
            train_expert_only: bool = False,
        ) -> None:
            nn.Module.__init__(self)
            self.freeze_vision_encoder, self.train_expert_only = freeze_vision_encoder, train_expert_only

            def text(of: Any, adaptive: bool) -> dict[str, Any]:
                return {
                    "hidden_size": of.width,
                    "intermediate_size": of.mlp_dim,
                    "num_attention_heads": of.num_heads,
                    "head_dim": of.head_dim,
                    "num_hidden_layers": of.depth,
                    "num_key_value_heads": of.num_kv_heads,
                    "vocab_size": vocabulary,
                    "hidden_activation": "gelu_pytorch_tanh",
                    "dtype": "float32",
                    "use_adarms": adaptive,
                    "adarms_cond_dim": of.width if adaptive else None,
                }

            vision = {
                "model_type": "siglip_vision_model",
                "hidden_size": width,
                "intermediate_size": 2 * width,
                "num_hidden_layers": 1,
                "num_attention_heads": _HEADS,
                "image_size": image_size,
                "patch_size": sizes["patch"],
                "projection_dim": width,
                "dtype": "float32",
            }
            whole = CONFIG_MAPPING["paligemma"](
                text_config={"model_type": "gemma", **text(vlm, use_adarms[0])},
                vision_config=vision,
                projection_dim=width,
                hidden_size=width,
                image_token_index=vocabulary - 1,
            )
            whole._vocab_size = vocabulary
            self.paligemma = PaliGemmaForConditionalGenerationWithPiGemma(config=whole)
            self.gemma_expert = PiGemmaForCausalLM(config=CONFIG_MAPPING["gemma"](**text(expert, use_adarms[1])))
            self.gemma_expert.model.embed_tokens = None
            self.to_bfloat16_for_selected_params(precision)
            self._set_requires_grad()

    return Resized


def _write_tokenizer(folder: Path) -> int:
    """A token for each of a few words, one for each byte of all others; returns how many there are."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        min_frequency=0, special_tokens=list(_SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([f" {word}" for word in _WORDS.split()] + _WORDS.split(), trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=512,
        extra_special_tokens={
            "fake_image_token": _SPECIAL[4],
            "image_token": _SPECIAL[5],
            "global_image_token": _SPECIAL[6],
            "end_of_utterance_token": _SPECIAL[7],
        },
    ).save_pretrained(folder)
    return int(tokenizer.get_vocab_size())


def _write_smolvlm(folder: Path, tokenizer: Path, width: int, layers: int, side: int) -> None:
    """What SmolVLA reads of its vision-language model: configuration and processor."""
    from transformers import AutoTokenizer, SmolVLMConfig, SmolVLMImageProcessor, SmolVLMProcessor
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

    words, heads, patch = AutoTokenizer.from_pretrained(tokenizer), 4, side // 4
    SmolVLMConfig(
        vision_config={
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": 1,
            "num_attention_heads": heads,
            "image_size": side,
            "patch_size": patch,
        },
        text_config={
            "model_type": "llama",
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": 2,
            "head_dim": width // heads,
            "vocab_size": len(words),
            "pad_token_id": words.pad_token_id,
            "bos_token_id": words.bos_token_id,
            "eos_token_id": words.eos_token_id,
        },
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=words.pad_token_id,
    ).save_pretrained(folder)
    size = {"longest_edge": side}
    SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(size=size, max_image_size=size),
        tokenizer=words,
        image_seq_len=(side // patch) ** 2 // 4,
        video_processor=SmolVLMVideoProcessor(
            size=size,
            max_image_size=size,
            fps=1,
            num_frames=1,
            video_sampling={"fps": 1, "max_frames": 1, "video_size": size},
        ),
    ).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kind", choices=["smolvla", "pi0", "pi05"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cameras", nargs="+", default=["front"])
    given = parser.parse_args()
    print(write_tiny(given.kind, given.folder, cameras=given.cameras))


if __name__ == "__main__":
    main()
