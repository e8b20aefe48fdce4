"""Time-zone abbreviations that a ``Date`` header may carry, as offsets from UTC.

Abbreviations are ambiguous by nature (CST, IST, ...). The choice here is the most populous use; a client that
needs certainty writes a numeric offset. The table only decides which calendar day a key is derived for and
whether a clock is in step, so a wrong guess refuses a request, it never admits one.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta, timezone, tzinfo

#: Hours east of UTC, and the abbreviations that mean them.
_BY_OFFSET: dict[float, str] = {
    -12: "AOE IDLW",
    -11: "NUT SST",
    -10: "CKT HAST HST TAHT",
    -9.5: "MART MIT",
    -9: "AKST GAMT GIT HADT HDT",
    -8: "AKDT CIST PST",
    -7: "MST PDT",
    -6: "CST EAST GALT MDT",
    -5: "ACT CDT COT CUST EASST ECT EST PET",
    -4.5: "VET",
    -4: "AST BOT CLT COST EDT FKT GYT PYT",
    -3.5: "NST NT",
    -3: "ADT ART BRT CLST FKST GFT PMST PYST ROTT SRT UYT",
    -2.5: "NDT",
    -2: "BRST FNT PMDT UYST",
    -1: "AZOST CVT EGT",
    0: "AZODT EGST GMT UCT UTC WET WEZ Z ZULU",
    1: "BST CET DFT MET WAT WEDT WEST",
    2: "CAT CEST EET HAEC MEST SAST WAST",
    3: "EAT EEST FET IDT IOT MSK SYOT TRT",
    3.5: "IRST",
    4: "AMT AZT GET GST MUT RET SAMT SCT VOLT",
    4.5: "AFT IRDT",
    5: "AMST AZST HMT MAWT MVT ORAT PKT TFT TJT TMT UZT YEKT",
    5.5: "IST SLST",
    5.75: "NPT",
    6: "ALMT BIOT BTT KGT NOVT OMST VOST YEKST",
    6.5: "CCT MMT",
    7: "CXT DAVT HOVT ICT KRAT NOVST OMSST THA WIB",
    8: "AWST BDT CHOT HKT IRKT KRAST MYT PHT SGT ULAT WITA",
    8.75: "ACWST CWST",
    9: "AWDT IRKST JST KST PWT TLT WIT YAKT",
    9.5: "ACST",
    10: "AEST CHST CHUT DDUT PGT VLAT YAKST YAPT",
    10.5: "ACDT LHST",
    11: "AEDT KOST LHDT MAGT NCT NFT PONT SAKT SBT SRET VLAST VUT",
    12: "ANAT ANAST FJT GILT MAGST MHT NZST PETT PETST TVT WAKT WFT",
    12.75: "CHAST",
    13: "FJST NZDT PHOT TKT TOT WST",
    13.75: "CHADT",
    14: "LINT",
}
#: NATO letters: A to M without J go east, N to Y go west; Z is in the table above.
_EAST, _WEST = "ABCDEFGHIKLM", "NOPQRSTUVWXY"


def _entries() -> Iterator[tuple[str, tzinfo]]:
    for hours, names in _BY_OFFSET.items():
        for name in names.split():
            yield name, timezone(timedelta(hours=hours), name)
    for sign, letters in ((1, _EAST), (-1, _WEST)):
        for number, letter in enumerate(letters, 1):
            yield letter, timezone(timedelta(hours=sign * number), letter)


#: Upper-case abbreviation to its zone.
ZONES: dict[str, tzinfo] = dict(_entries())
