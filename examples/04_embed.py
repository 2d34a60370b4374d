"""Turn sentences into vectors with all-MiniLM-L6-v2 and find the one that is meant."""

from __future__ import annotations

from deepseek import Model

model = Model.from_pretrained("all-minilm-l6-v2")
sentences = ["A cat sleeps on the sofa.", "The stock market fell today.", "Water boils at 100 degrees."]
vectors = model.embed(sentences)  # [3, 384], of length 1
question = model.embed("Which animal is resting?")  # [384]

for likeness, sentence in sorted(zip(vectors @ question, sentences), reverse=True):
    print(f"{likeness:5.2f}  {sentence}")
