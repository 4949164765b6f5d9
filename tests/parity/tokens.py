"""Token ids by transformers' CLIPTokenizer."""

from transformers import CLIPTokenizer

from fixtures import MODEL, OUT, save_json

PROMPTS = [
    "",
    " ",
    "a dog",
    "A DOG",
    "  two   spaces\tand\na newline ",
    "a dog, a cat; and (maybe) a bird!",
    "it's the dog's bone, we'll see: they've gone, I'm here, he'd know, you're out",
    "don't can't won't O'Neill 'quoted' ''double''",
    "rock'n'roll 'S 'T 'RE 'Ve",
    "12 345 6.78 1,000,000 3rd 2nd x2",
    "!!! ??? ... --- ___ @#$%^&*",
    "...wait--what?!",
    "cup_of_coffee snake_case kebab-case CamelCase",
    "naïve café über straße ÅNGSTRÖM İstanbul",
    "cafe\u0301 e\u0301 decomposed and é composed",
    "ﬁ ligature, ½ half, ² squared, Ⅷ roman, ① circled",
    "日本語の犬 中文 한국어",
    "собака и кошка",
    "שלום مرحبا",
    "हिन्दी ไทย",
    "🐶",
    "a 🐶 dog 🐱🐱 cat",
    "👩‍👩‍👧‍👦 family 🏳️‍🌈 flag 👍🏽",
    "<|startoftext|>",
    "a dog <|endoftext|> a cat",
    "<|endoftext|>a dog<|startoftext|>",
    "< |endoftext| > <|endoftext",
    "zero\u200bwidth \u00a0nbsp \u3000ideographic \u2028line",
    "tab\tcarriage\rreturn\x0bvertical\x0cfeed",
    "control \x01\x02\x7f characters",
    "\ufeffbyte order mark",
    "\\backslash /slash |pipe `backtick` ~tilde",
    "http://example.com/a?b=c&d=e#f",
    "a" * 200,
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "an ink emoji of a tiger in the snow on a red background",
    " ".join(["dog"] * 74),
    " ".join(["dog"] * 75),
    " ".join(["dog"] * 76),
    " ".join(["a strawberry on a table,"] * 100),
    " ".join(f"word{i}" for i in range(500)),
    "!" * 300,
    "ａ ｄｏｇ (full width)",
    "the ＂quoted＂ “curly” ‘single’ «guillemets» —dash– …",
    "x\u0300\u0301\u0302 stacked marks",
    "ǅ titlecase, ſ long s, K kelvin, Å angstrom",
]


def generate():
    """Writes tokens.json: for each prompt the 77 ids, and how many of them stand before the padding."""
    tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
    cases = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, padding="max_length", max_length=77, truncation=True).input_ids
        assert len(ids) == 77
        whole = tokenizer(prompt).input_ids
        length = min(len(whole), 77)
        # The ids before the padding: start, words, end; the rest is the end token again.
        assert ids[length:] == [tokenizer.pad_token_id] * (77 - length)
        cases.append({"prompt": prompt, "ids": ids[:length], "cut": len(whole) > 77})
    save_json(OUT / "tokens.json", {"pad": tokenizer.pad_token_id, "length": 77, "cases": cases})
    return f"{len(cases)} prompts"
