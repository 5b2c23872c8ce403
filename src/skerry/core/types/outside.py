"""Places outside the platform that an app may call, by name: a cloud's region, a region of the world, a city of ours.

`aws:us-east-1`, `gcp:europe-west4`, `azure:westeurope` lie in the city that the provider names, `region:weur` in the city of that
region where most long cables end, `site:lhr` is that city. What is called there counts as if it were in the site nearest to it.
"""

from difflib import get_close_matches

_LISTED = {
    "aws": "us-east-1 iad us-east-2 cmh us-west-1 sfo us-west-2 pdx ca-central-1 yul ca-west-1 yyc mx-central-1 qro "
    "sa-east-1 gru eu-west-1 dub eu-west-2 lhr eu-west-3 cdg eu-central-1 fra eu-central-2 zrh eu-north-1 arn "
    "eu-south-1 mxp eu-south-2 mad il-central-1 tlv me-south-1 bah me-central-1 dxb af-south-1 cpt ap-south-1 bom "
    "ap-south-2 hyd ap-east-1 hkg ap-northeast-1 nrt ap-northeast-2 icn ap-northeast-3 kix ap-southeast-1 sin "
    "ap-southeast-2 syd ap-southeast-3 cgk ap-southeast-4 mel ap-southeast-5 kul ap-southeast-7 bkk",
    "gcp": "us-central1 oma us-east1 jax us-east4 iad us-east5 cmh us-south1 dfw us-west1 pdx us-west2 lax us-west3 slc "
    "us-west4 las northamerica-northeast1 yul northamerica-northeast2 yyz southamerica-east1 gru southamerica-west1 "
    "scl europe-west1 bru europe-west2 lhr europe-west3 fra europe-west4 ams europe-west6 zrh europe-west8 mxp "
    "europe-west9 cdg europe-west12 mxp europe-southwest1 mad europe-north1 hel europe-central2 waw me-west1 tlv "
    "me-central1 doh africa-south1 jnb asia-south1 bom asia-south2 del asia-southeast1 sin asia-southeast2 cgk "
    "asia-east1 tpe asia-east2 hkg asia-northeast1 nrt asia-northeast2 kix asia-northeast3 icn australia-southeast1 "
    "syd australia-southeast2 mel",
    "azure": "eastus iad eastus2 iad centralus oma northcentralus ord southcentralus sat westus sfo westus2 sea westus3 phx "
    "canadacentral yyz canadaeast yul brazilsouth gru mexicocentral qro northeurope dub westeurope ams uksouth lhr "
    "ukwest man francecentral cdg germanywestcentral fra switzerlandnorth zrh norwayeast osl swedencentral arn "
    "polandcentral waw italynorth mxp spaincentral mad uaenorth dxb qatarcentral doh israelcentral tlv "
    "southafricanorth jnb centralindia pnq southindia maa eastasia hkg southeastasia sin japaneast nrt japanwest "
    "kix koreacentral icn australiaeast syd australiasoutheast mel",
    "region": "weur fra eeur waw enam iad wnam sjc sam gru afr jnb apac sin me dxb oc syd",
}  # fmt: skip
CITIES = {
    kind: dict(zip(words.split()[::2], words.split()[1::2], strict=True)) for kind, words in _LISTED.items()
}  # by kind and name: the IATA code of the city it lies in


def is_outside(name: str) -> bool:
    """Whether it names a place in a table here."""
    kind, _, place = name.partition(":")
    return place in CITIES.get(kind, {})


def outside_fault(name: str) -> str | None:
    """What is wrong with the name of an outside place, in words; None: nothing, or it is no such name at all."""
    kind, _, place = name.partition(":")
    if kind not in CITIES or is_outside(name):
        return None
    near = get_close_matches(place, CITIES[kind], n=1)
    return f"{name[:64]!r} is no place that is known" + (f"; perhaps {f'{kind}:{near[0]}'!r} is meant" if near else "")
