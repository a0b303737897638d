"""Texts by which a model's numerical settings are chosen when it is loaded, and other texts on which they are checked.

The second set is odd on purpose. Rounding is worst on texts that a model has rarely seen, so that a bound that holds
for these texts tells something about unforeseen ones.
"""

from __future__ import annotations

PROBE_TEXTS = (
    "The committee will publish its report on Monday, after months of delay.",
    "A cat sleeps on the warm windowsill.",
    "How do I change the password of my account?",
    "def add(a, b):\n    return a + b",
    "In 1969, two men walked on the moon while a third waited in orbit; 600 million people watched.",
    "Cheap flights to Lisbon, from 49 euros!",
    "ok",
    "3",
    "!",
)
"""Texts of several kinds, on which int8 finds the outlier columns of states. Rounding shows most in the shortest texts,
whose vectors are a single state."""

BOUND_TEXTS = (
    # Short and plain sentences, like most texts that are embedded.
    "A man is playing the guitar.",
    "Two dogs run across a snowy field.",
    "The central bank raised interest rates by a quarter of a point.",
    "She did not expect to see her brother at the station.",
    "The new bridge will be closed to lorries until the spring.",
    "Is it safe to eat raw eggs?",
    "what time does the pharmacy close on sundays",
    "Symptoms of vitamin D deficiency in adults",
    "The film is too long, badly lit, and I loved every minute of it.",
    "Never again. Two hours late, no apology, cold food.",
    "Protesters gathered in the square for the third night running.",
    "The patient was given 40 mg of furosemide intravenously.",
    # One word, one sign, one number.
    "Boats",
    "no",
    "?",
    "7",
    "a a a a a a a a a a a a a a a a",
    "!!!!!!!!!!",
    # Capitals, numbers, addresses, dates, tables.
    "BREAKING: MARKETS FALL AS TRADE TALKS COLLAPSE",
    "Call +49 30 901820 or write to info@example.org before 17:30.",
    "https://example.org/a/b/c?q=1&page=2#top",
    "3.14159265358979 2.71828182845905 1.41421356237310",
    "2024-02-29T23:59:59Z ERROR worker[12] timeout after 30000 ms",
    "| name | qty |\n| --- | --- |\n| bolts | 120 |\n| nuts | 80 |",
    # Code and markup.
    "SELECT name, COUNT(*) FROM visits WHERE year > 2010 GROUP BY name ORDER BY 2 DESC;",
    "for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; }",
    "<p>The <b>second</b> reading has seen the whole text.</p>",
    '{"id": 17, "tags": ["a", "b"], "ok": true, "score": null}',
    "E = mc^2, and \\int_0^1 x^2 dx = 1/3",
    # Other languages and other scripts.
    "Der Zug nach Hamburg fährt heute von Gleis sieben ab.",
    "Le conseil municipal a voté le budget hier soir.",
    "¿Dónde puedo comprar entradas para el museo?",
    "Поезд опаздывает на двадцать минут.",
    "今日はとても暑いので、海に行きたいです。",
    "这家餐厅的面条很好吃。",
    "القطار يصل في الساعة الثامنة صباحا",
    "기차가 늦게 도착했습니다.",
    "😀🚀 so happy!!! 🎉🎉",
    # Longer texts.
    "The survey covered 1,204 households in four provinces. Enumerators visited each of them twice, once before the "
    "harvest and once after it, and asked about income, debts, and the food that had been eaten during the week. Where "
    "the head of the household was away, another adult answered; the two groups did not differ in any of the outcomes.",
    "Whan that Aprille with his shoures soote the droghte of March hath perced to the roote, and bathed every veyne in "
    "swich licour, of which vertu engendred is the flour",
    "To reset the device, hold the power button for ten seconds, release it, wait for the light to turn amber, and "
    "press the button twice. If the light stays red, the battery must be replaced: see section 4.2 of the manual.",
)
"""Texts on which a dtype is checked: the vectors of all must be close enough to float32's (see ``numerics``)."""
