"""Emoji characters as words."""

import pytest

from latent_shift.emoji_names import spell_emoji


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("🚀", "rocket"),
        ("a 👻 moving left", "a ghost moving left"),
        ("👍🏽", "thumbs up with medium skin tone"),
        ("❤️ on navy", "red heart on navy"),
        ("👨‍👩‍👧", "family man woman girl"),
        ("🚀🚀", "rocket rocket"),
        ("5️⃣", "keycap 5"),
        ("☃", "snowman"),
        ("✓", "check mark"),
        ("plain, 5 % of 漢字", "plain, 5 % of 漢字"),
        ("naïve café – “quoted”", "naïve café – “quoted”"),
    ],
)
def test_emoji_become_words(text, expected):
    assert spell_emoji(text) == expected


def test_what_is_known_stays():
    assert spell_emoji("🚀 and 👻", lambda symbol: symbol == "🚀") == "🚀 and ghost"
