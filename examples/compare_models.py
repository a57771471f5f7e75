"""Two models on rows of your own: scores with errors, then the difference with its interval.

python examples/compare_models.py
"""

from __future__ import annotations

import tutelage

ONE, OTHER = "HuggingFaceTB/SmolLM2-360M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"
COUNTRIES = {
    "France": "Paris",
    "Japan": "Tokyo",
    "Kenya": "Nairobi",
    "Peru": "Lima",
    "Norway": "Oslo",
    "Cuba": "Havana",
}
ROWS = [{"country": country, "capital": capital} for country, capital in COUNTRIES.items()]

found = [
    tutelage.evaluate(
        model,
        data=ROWS,
        prompt="What is the capital of {country}? Answer with its name alone.",
        completion="{capital}",
        metrics=["exact_match", "rouge_l"],
        max_new_tokens=8,
    )
    for model in (ONE, OTHER)
]
for one in found:
    print(one, end="\n\n")
print(tutelage.compare(*found))
