"""The letters of the `Glyphs` data set.

Chosen once, by rendering: walk a script by code point and keep a letter unless it looks like one already kept, where "looks like" is the
correlation of the undistorted bitmaps, cropped to their ink and brought to one size, averaged over the typefaces that have both letters.
So of Latin `C` and `c` one is left, and Cyrillic `А` or Armenian `Օ`, which are Latin `A` and `O`, are not among the test letters; nor is
Cyrillic `У`, which eyes take for `Y` while pixels differ. `tests/test_data_glyphs.py` repeats the measurement.
"""

from __future__ import annotations

__all__ = ["FACES", "TEST_LETTERS", "TRAIN_LETTERS"]

TRAIN_LETTERS = (
    "ABCDFHIJKLMNOQRSTUVWXYZabdefgjkmnprtuyÀÆÇÈÍÑÒØÙÝÞßàåæçèìíîïðñøùýþāĄąĆćĎďēĘęĜĝĢĤĥħįĲĳĴĵĶķĸĹĺĻļľŀŅņŉŊŋŒŔŕŖŗŚśŞţŤťŲųŴŵŹź"
    "ƁƄƆƇƈƊƋƐƑƒƔƕƖƛƜƝƠơƢƣƤƦƧƩƪƯưƳƴƷƸƺƻƾǁǂǕǖǢǣǨǩǫǬǭǮǯǶǻǿȑșȜȡȤȪȴȵȸȹȺȻȾɀɁɍɐɑɕɖɘɚɜɝɟɠɢɤɧɨɬɭɮ"
)  # 200 of the Latin script
TEST_LETTERS = (
    "ЂЃЇЉЊЋЍЎЏДЖЛФЧШЩЪЫЮЯбвгджийлмтфцчшщъыьэюђѓљњћќџѢѣѤѪѬѰѱѴѶѷҍҐґғҔҖҗҘҙҚқҞҟҠҡҢңҤҥҦҬҭұҲҳҴҵҶҺӁӂӃӇӋәӚӛӞӟӬӯӴӵӶӷӸӹԒԓԔԕ"
    "ԲԳԴԵԶԷԸԹԺԻԽԾԿՀՁՃՄՅՆՇՈՉՊՌՎՒՔՖբգդեէըթժիլխկձճմյնշչպջռփքֆև"
    "აბგდეზთკლნოპჟრსტუფქღყშჩცძწჭჯჰჱჲჳჴჵჶჸჹჺ"
)  # 200 of the Cyrillic, Armenian and Georgian scripts
FACES = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-Oblique",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "DejaVuSerif-BoldItalic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "STIXGeneralBolIta",
)  # file names, without .ttf, in the order of the instances of a letter
