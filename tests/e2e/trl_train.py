"""A few steps of TRL's GRPO over an environment, with a model of two small layers that says what its script has instead of what
its weights give. Prints a line of JSON. argv: environment, split, steps, folder."""
import json
import os
import sys

import torch
import trl
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer
from trl.experimental.openreward import OpenRewardSpec

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
           "<think>", "</think>"]
ANSWERS = ["4", "5"]  # by turns, so that a group has rewards that differ


def tokenizer():
    """Bytes, with Qwen's special tokens and the chat template that TRL has of it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    t = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=t, eos_token="<|im_end|>", pad_token="<|endoftext|>",
                                   additional_special_tokens=["<|im_start|>"])
    fast.add_tokens(SPECIAL[3:])
    with open(os.path.join(os.path.dirname(trl.__file__), "chat_templates", "qwen3.jinja"), encoding="utf-8") as f:
        fast.chat_template = f.read()
    return fast


class Scripted(Qwen3ForCausalLM):
    """Calls the tool once, then says "done"."""
    words = None  # the tokenizer
    said = 0

    def completion(self, prompt):
        if self.words.convert_tokens_to_ids("<tool_response>") in prompt:
            return "done<|im_end|>"
        Scripted.said += 1
        call = {"name": "answer", "arguments": {"answer": ANSWERS[Scripted.said % len(ANSWERS)]}}
        return f"<tool_call>\n{json.dumps(call)}\n</tool_call><|im_end|>"

    def generate(self, input_ids=None, **_):
        rows = [self.words.encode(self.completion(row.tolist()), add_special_tokens=False) for row in input_ids]
        width = max(map(len, rows))
        padded = torch.tensor([r + [self.words.pad_token_id] * (width - len(r)) for r in rows])
        return torch.cat([input_ids, padded], dim=1)


def main(environment, split, steps, folder):
    words = tokenizer()
    Scripted.words = words
    model = Scripted(Qwen3Config(vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                                 num_key_value_heads=2, head_dim=8, max_position_embeddings=8192, eos_token_id=words.eos_token_id,
                                 pad_token_id=words.pad_token_id))
    spec = OpenRewardSpec(environment, split=split)
    args = GRPOConfig(output_dir=folder, num_generations=2, per_device_train_batch_size=2, max_steps=int(steps), max_completion_length=1024,
                      max_tool_calling_iterations=3, logging_steps=1, report_to=[], save_strategy="no", use_cpu=True, bf16=False,
                      learning_rate=1e-4, gradient_checkpointing=False)
    trainer = GRPOTrainer(model=model, args=args, processing_class=words, train_dataset=spec.train_dataset,
                          environment_factory=spec.environment_factory, reward_funcs=spec.reward_funcs)
    before = model.model.layers[0].self_attn.q_proj.weight.detach().clone()
    trainer.train()
    logs = [x for x in trainer.state.log_history if "reward" in x]
    print(json.dumps({"steps": trainer.state.global_step, "rewards": [x["reward"] for x in logs], "calls": Scripted.said,
                      "moved": bool((model.model.layers[0].self_attn.q_proj.weight != before).any())}))


if __name__ == "__main__":
    main(*sys.argv[1:])
