"""Which region a country is in, for the model of round trips: nobody has to say it of a place."""

from skerry.core.geo.cities import WEST_OF_NORTH_AMERICA_LON

URAL_LON = 60.0  # degrees: Russia and Kazakhstan west of it lie in Eastern Europe's networks
_BY_REGION = {
    "afr": "AO BF BI BJ BW CD CF CG CI CM CV DJ DZ EG EH ER ET GA GH GM GN GQ GW KE KM LR LS LY MA MG ML MR MU MW MZ NA NE NG "
    "RE RW SC SD SH SL SN SO SS ST SZ TD TG TN TZ UG YT ZA ZM ZW",
    "apac": "AF BD BN BT CN HK ID IN JP KG KH KP KR LA LK MM MN MO MV MY NP PH PK SG TH TJ TL TM TW UZ VN",
    "eeur": "AL AM AZ BA BG BY CY CZ EE GE GR HR HU LT LV MD ME MK PL RO RS SI SK TR UA XK",
    "enam": "AG AI BL BM BS BZ CU DM DO GL GP GT HT JM KN KY LC MF MQ MS NI PM PR SV TC VC VG VI",
    "me": "AE BH IL IQ IR JO KW LB OM PS QA SA SY YE",
    "oc": "AS AU CK FJ FM GU KI MH MP NC NF NR NU NZ PF PG PN PW SB TK TO TV VU WF WS",
    "sam": "AR AW BB BO BQ BR CL CO CR CW EC FK GD GF GY HN PA PE PY SR SX TT UY VE",
    "weur": "AD AT AX BE CH DE DK ES FI FO FR GB GG GI IE IM IS IT JE LI LU MC MT NL NO PT SE SJ SM VA",
}  # fmt: skip
_REGION = {country: region for region, countries in _BY_REGION.items() for country in countries.split()}


def region_at(country: str, lon: float) -> str:
    """One of Cloudflare's location hints; empty for a country that is not listed."""
    if country in ("US", "CA", "MX"):
        return "wnam" if lon < WEST_OF_NORTH_AMERICA_LON else "enam"
    if country in ("RU", "KZ"):
        return "eeur" if lon < URAL_LON else "apac"
    return _REGION.get(country, "")
