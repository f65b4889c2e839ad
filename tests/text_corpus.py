"""Hard text: many scripts, marks, spaces of all kinds, and what looks like special tokens."""

from __future__ import annotations

import functools
import random
import unicodedata

# A greeting and a number, or the like, of each script.
PHRASES = (
    "The quick brown fox doesn't jump over 13 lazy dogs; it's 3.14159 o'clock, I'LL say!",
    "Größe, Straße, ÄÖÜ und naïve Cafés — „Fünf Boxkämpfer“",
    "Zażółć gęślą jaźń, İstanbul'da ığdır ŞİŞE",
    "Tiếng Việt có sáu thanh điệu, đẹp lắm",
    "Привет, мир! Съешь ещё 42 булки",
    "Γειά σου Κόσμε, τέλος ΣΊΣΥΦΟΣ",
    "Բարեւ աշխարհ, ինչպես ես։",
    "שלום עולם, מה שלומך היום?",
    "مرحبا بالعالم، كيف حالك؟ ١٢٣ لا إله",
    "سلام دنیا، می‌خواهم ۴۵۶",
    "नमस्ते दुनिया, क्षत्रिय १२३",
    "ওহে বিশ্ব, কেমন আছো ৭৮৯",
    "ਸਤ ਸ੍ਰੀ ਅਕਾਲ ਦੁਨੀਆ",
    "નમસ્તે દુનિયા",
    "வணக்கம் உலகம்",
    "హలో ప్రపంచం ఎలా ఉన్నారు",
    "ಹಲೋ ಪ್ರಪಂಚ",
    "ഹലോ ലോകം, ക്ഷമിക്കണം",
    "ආයුබෝවන් ලෝකය",
    "สวัสดีชาวโลก ๑๒๓ ผู้ใหญ่",
    "ສະບາຍດີຊາວໂລກ",
    "မင်္ဂလာပါကမ္ဘာလောက",
    "សួស្តីពិភពលោក",
    "བཀྲ་ཤིས་བདེ་ལེགས།",
    "გამარჯობა მსოფლიო",
    "ሰላም ልዑል ዓለም፡ ፩፪፫",
    "你好,世界!今天是2024年5月,天氣很好。𠮷野家",
    "こんにちは世界、カタカナと半角ガギグﾊﾛｰ",
    "안녕하세요 세계, 오늘은 좋은 날",
    "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ ᏏᏲ",
    "ᠮᠣᠩᠭᠣᠯ ᠪᠢᠴᠢᠭ",
    "ⵣⴰⵎⴰⵣⵉⵖⵜ ⴰⵣⵓⵍ",
)
ODDITIES = (
    *(
        "😀",
        "👩‍👩‍👧‍👦",
        "🏳️‍🌈",
        "👍🏽",
        "🇩🇪🇫🇷",
        "☃️",
        "✓",
        "→",
        "€5",
        "½",
        "Ⅻ",
        "ﬁ",
        "ﷺ",
        "㎏",
        "…",
        "①",
    ),
    *(
        "\x00",
        "\x01",
        "\x07",
        "\x1b[0m",
        "\x7f",
        "\x85",
        "\xad",
        "\ufeff",
        "\u200b",
        "\u200d",
        "\u2060",
    ),
    *("\xa0", "\u2009", "\u202f", "\u3000", "\u2028", "\t", "\n", "\r\n", "\n\n\n", "\v", "\f"),
    *(" ", "  ", "   ", "       ", " \n ", "\t\t", "  \n\n  x"),
    *(
        "0",
        "12",
        "123",
        "1234567",
        "3.14",
        "1,000,000",
        "٣٤",
        "２３",
        "0x1F",
        "e\u0301",
        "n\u0303o",
    ),
    *(
        "'s",
        "'T",
        "'ll",
        "’re",
        "don't",
        "I'M",
        "--",
        "...",
        "!?",
        "/path/to",
        "a_b-c",
        "http://x.y?z=1",
    ),
    *(
        "▁",
        "Ġ",
        "Ċ",
        "##ing",
        "@@",
        "६",
        "ĴA",
        "\ufffd",
        "\ue000",
        "\U0010fffd",
        "\u0378",
        "\u2e63",
    ),
    *("CamelCase", "UPPER", "x" * 120, "ß", "ς", "ﬃ", "Ⅷ", "𝔘𝔫𝔦", "ａｂｃ", "\u034f", "ก็", "क्‍ष"),
)
SPECIAL_TOKENS = (
    *("[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]", "<s>", "</s>", "<pad>", "<unk>", "<mask>"),
    *("<bos>", "<eos>", "<|endoftext|>", "<|startoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>"),
    *(
        "<|start_header_id|>",
        "<image>",
        "<img>",
        "<think>",
        "</think>",
        "<|notimestamps|>",
        "[ SEP ]",
    ),
)


@functools.cache
def corpus(count: int = 2000, seed: int = 0) -> tuple[str, ...]:
    """Strings that differ from each other."""
    random_ = random.Random(seed)
    words = [word for phrase in PHRASES for word in phrase.split(" ")]
    found = dict.fromkeys((*PHRASES, *ODDITIES, *SPECIAL_TOKENS, ""))
    for phrase in PHRASES:
        changed = (phrase.upper(), f" {phrase}  ", phrase.replace(" ", "  "))
        forms = (unicodedata.normalize(form, phrase) for form in ("NFD", "NFKC"))
        found.update(dict.fromkeys((*changed, *forms)))
    while len(found) < count:
        kinds = (words, words, ODDITIES, SPECIAL_TOKENS)
        parts = [random_.choice(random_.choice(kinds)) for _ in range(random_.randint(1, 9))]
        if random_.random() < 0.2:
            codes = (random_.randrange(1, 0x11000) for _ in range(random_.randint(1, 4)))
            parts += [chr(code) for code in codes if not 0xD800 <= code < 0xE000]
            random_.shuffle(parts)
        found[random_.choice(("", " ", " ", "  ")).join(parts)] = None
    return tuple(found)
