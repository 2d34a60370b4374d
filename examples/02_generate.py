"""Complete a prompt with SmolLM2-135M, a piece of text at a time."""

from __future__ import annotations

from deepseek import Model

model = Model.from_pretrained("smollm2-135m")  # a GGUF file or a Hugging Face folder works too

prompt = "The capital of France is"
print(prompt, end="")
for piece in model.stream(prompt, max_new_tokens=8, stop="\n"):
    print(piece, end="", flush=True)
print()

answer = model.generate("What is gravity?", max_new_tokens=24, chat=True)
print(f"{answer.text} ({len(answer.new_ids)} tokens, stopped by {answer.stop_reason})")
