"""The captions of the pictures, with their probabilities."""

STYLED = [("a {s} emoji of {x}", 0.6), ("{x} in {s} style", 0.2), ("{x}, {s} emoji", 0.2)]
PLAIN = [("an emoji of {x}", 0.5), ("{x}", 0.3), ("{b}", 0.2)]  # {b}: the phrase without its article
P_PLAIN = 0.3  # share of captions without a style word

NO_ARTICLE = ("s", "corn", "bread", "rice", "broccoli", "spaghetti", "cheese", "fire", "glass")
SINGULAR = ("bus", "cactus", "octopus", "hippopotamus", "rhinoceros", "hourglass", "dress")
CONSONANT_VOWELS = ("uni", "ufo")


def article(word):
    """"a" or "an"."""
    return "an" if word[0] in "aeiou" and not word.startswith(CONSONANT_VOWELS) else "a"


def with_article(phrase):
    """"an owl", "jeans"."""
    if phrase.endswith(NO_ARTICLE) and not phrase.endswith(SINGULAR):
        return phrase
    return f"{article(phrase)} {phrase}"


def fill(template, phrase, bare, style):
    """A template with its words."""
    return template.format(x=phrase, b=bare, s=style).replace("a ink", "an ink")


def all_captions(meta):
    """The list of captions, and index[concept][style or None] = [(number of the caption, probability)]."""
    captions, numbers, index = [], {}, []

    def number(caption):
        if caption not in numbers:
            numbers[caption] = len(captions)
            captions.append(caption)
        return numbers[caption]

    styles = sorted({it["style"] for it in meta["items"]})
    for concept in meta["concepts"]:
        n = len(concept["phrases"])
        shares = [1.0] if n == 1 else [0.6] + [0.4 / (n - 1)] * (n - 1)
        entry = {}
        for style in [*styles, None]:
            entry[style] = [
                (number(fill(t, x, b, style)), p * q)
                for x, b, p in zip(concept["captions"], concept["phrases"], shares, strict=True)
                for t, q in (STYLED if style else PLAIN)
            ]
        index.append(entry)
    return captions, index


def draw(rng, choices):
    """One of [(value, probability)]."""
    return choices[rng.choice(len(choices), p=[p for _, p in choices])][0]


def draw_caption(rng, index, concept, style):
    """The number of a caption for a picture, and the style if the caption names it."""
    named = None if rng.random() < P_PLAIN else style
    return draw(rng, index[concept][named]), named


def composed_captions(text, style):
    """Captions with probabilities of a picture that `text` describes ("a dog in the snow", "a dog and a cat")."""
    return [
        [text, P_PLAIN * 0.7],
        [f"an emoji of {text}", P_PLAIN * 0.3],
        [f"{article(style)} {style} emoji of {text}", 1 - P_PLAIN],
    ]


def scene_captions(meta, scenes, styles, first):
    """The canonical captions of scenes, and where they stand: number[concept, style or None, scene], counted from `first`."""
    captions, number = [], {}
    for c, concept in enumerate(meta["concepts"]):
        for style in [*styles, None]:
            for s, scene in enumerate(scenes):
                what = f"{concept['captions'][0]} {scene}"
                number[c, style, s] = first + len(captions)
                captions.append(f"{article(style)} {style} emoji of {what}" if style else what)
    return captions, number
