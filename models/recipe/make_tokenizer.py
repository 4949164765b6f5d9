#!/usr/bin/env python3
"""Train a CLIP-style byte-level BPE tokenizer and save it as a CLIPTokenizer folder (tokenizer.json).

The order of the vocabulary is CLIP's: 256 byte symbols, the same with </w>, merges, <|startoftext|>, <|endoftext|>. Words
come from the captions and from the MIT-licensed word lists emojilib and unicode-emoji-json below NPM/node_modules.
"""

import collections
import json
import pathlib
import re

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from captions import all_captions
from common import folder, parser, positive, read_json

PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|[^\s\w]+")  # the same in Python's own regular expressions
START, END = "<|startoftext|>", "<|endoftext|>"
EXTRA = """the of in on with and for from at by over under photo picture painting drawing sketch style art portrait wearing
sitting standing running flying blue red green yellow purple pink black white brown grey gold silver small big large cute
happy sad angry shaped looking water snow night day beautiful colorful realistic abstract made like two three""".split()


def byte_symbols():
    """GPT-2's printable character for each byte, printable bytes first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def word_counts(meta, npm):
    """How often each word counts: captions most, general English from the word lists."""
    counts = collections.Counter()
    for caption in all_captions(meta)[0]:
        for word in WORDS.findall(caption.lower()):
            counts[word] += 20
    modules = npm / "node_modules"
    keywords = (k.replace("_", " ") for ks in read_json(modules / "emojilib/dist/emoji-en-US.json").values() for k in ks)
    names = (v["name"] for v in read_json(modules / "unicode-emoji-json/data-by-emoji.json").values())
    for text in [*keywords, *names]:
        for word in WORDS.findall(text.lower()):
            if word.isascii():
                counts[word] += 2
    for word in EXTRA:
        counts[word] += 20
    return counts


def join(word, pair):
    """A word with every occurrence of a pair merged."""
    out, i = [], 0
    while i < len(word):
        both = i + 1 < len(word) and (word[i], word[i + 1]) == pair
        out.append(word[i] + word[i + 1] if both else word[i])
        i += 2 if both else 1
    return tuple(out)


def train(counts, symbols, size):
    """The merges of byte-pair encoding, most frequent pair first, until the vocabulary has `size` entries."""
    words = collections.Counter()
    for word, n in counts.items():
        bytes_ = [symbols[b] for b in word.encode()]
        words[(*bytes_[:-1], bytes_[-1] + "</w>")] += n
    merges = []
    while len(merges) < size - 514:
        pairs = collections.Counter()
        for word, n in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += n
        if not pairs:
            break
        best, n = max(pairs.items(), key=lambda kv: (kv[1], kv[0]))
        if n < 2:
            break
        merges.append(best)
        merged = collections.Counter()
        for word, n in words.items():
            merged[join(word, best)] += n
        words = merged
    return merges


def build(vocab, merges):
    """The tokenizer of `tokenizers`, with CLIP's normalization, splitting and start and end tokens."""
    model = models.BPE(
        vocab={v: i for i, v in enumerate(vocab)}, merges=merges, continuing_subword_prefix="", end_of_word_suffix="</w>",
        unk_token=END, fuse_unk=False,
    )
    t = Tokenizer(model)
    t.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True)
    t.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    ends = [(START, vocab.index(START)), (END, vocab.index(END))]
    t.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    t.add_special_tokens([START, END])
    return t


def main():
    p = parser(__doc__)
    p.add_argument("data", type=folder)
    p.add_argument("npm", type=folder)
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("--size", type=positive, default=4096, help="entries of the vocabulary (%(default)s)")
    a = p.parse_args()
    if a.size < 514:
        p.error("--size must be at least 514: bytes, bytes at the end of a word, start, end")
    symbols = byte_symbols()
    merges = train(word_counts(read_json(a.data / "meta.json"), a.npm), symbols, a.size)
    base = list(symbols.values())
    vocab = list(dict.fromkeys([*base, *(c + "</w>" for c in base), *(x + y for x, y in merges), START, END]))
    tokenizer = build(vocab, merges)
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "tokenizer.json").write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":")))
    config = {
        "add_prefix_space": False, "bos_token": START, "do_lower_case": True, "eos_token": END, "errors": "replace",
        "model_max_length": 77, "pad_token": END, "tokenizer_class": "CLIPTokenizer", "unk_token": END,
    }
    (a.out / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    print(f"{len(vocab)} entries, {len(merges)} merges")


if __name__ == "__main__":
    main()
