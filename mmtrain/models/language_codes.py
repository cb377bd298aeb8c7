"""Language codes as shards have them (BCP 47) and as benchmarks do: ISO 639-3 with an ISO 15924 script, "eng-Latn"."""

import re

# script -> languages that are mostly written in it (CLDR, likely subtags): a code of ISO 639-1 with those of 639-3 that
# stand for it, the macrolanguage's first, or a code of 639-3 alone
TABLE = {
    "Latn": (
        "aa:aar af:afr ak:aka/twi an:arg ay:aym/ayr az:aze/azj bi:bis bm:bam br:bre bs:bos ca:cat ch:cha co:cos "
        "cs:ces cy:cym da:dan de:deu ee:ewe en:eng eo:epo es:spa et:est/ekk eu:eus ff:ful/fuc fi:fin fj:fij fo:fao "
        "fr:fra fy:fry ga:gle gd:gla gl:glg gn:grn/gug gv:glv ha:hau ho:hmo hr:hrv ht:hat hu:hun hz:her ia:ina "
        "id:ind ie:ile ig:ibo ik:ipk/esk io:ido is:isl it:ita jv:jav kg:kon/kng ki:kik kj:kua kl:kal kr:kau/knc "
        "ku:kur/kmr kw:cor la:lat lb:ltz lg:lug li:lim ln:lin lt:lit lu:lub lv:lav/lvs mg:mlg/plt mh:mah mi:mri "
        "ms:msa/zsm mt:mlt na:nau nb:nob nd:nde ng:ndo nl:nld nn:nno no:nor/nob nr:nbl nv:nav ny:nya oc:oci om:orm/gaz "
        "pi:pli pl:pol pt:por qu:que/quz rm:roh rn:run ro:ron rw:kin sc:srd/src se:sme sg:sag sk:slk sl:slv sm:smo "
        "sn:sna so:som sq:sqi/als ss:ssw st:sot su:sun sv:swe sw:swa/swh tk:tuk tl:tgl tn:tsn to:ton tr:tur ts:tso "
        "tw:twi ty:tah uz:uzb/uzn ve:ven vi:vie vo:vol wa:wln wo:wol xh:xho yo:yor za:zha/zyb zu:zul abs ace agq "
        "ang ann arn asa ast ban bas bbc bem bew bez bhp bjn blo bss bug cad cbk cch ceb cgg cho cic cjk cmo cnh "
        "crh csb dav dik dje dsb dtp dua dyo dyu dza ebu ewo fil fon fro frr fur fuv gaa gsw guz haw hrx hsb ilo "
        "jbo jgo jmc kab kac kaj kam kbp kcg kde kea kek ken kgp khq kkj kln kmb kpe ksb ksf ksh kxv kzj lag lfn "
        "lij lkt lld lmo ltg lua luo lus luy lzz mad mak mas max mer mfe mgh mgo mhn mic min moh mos mrh mua mui "
        "mus nan naq nds nij nmg nnh nov nso nus nyn oka pag pam pap pcm pis pms prg quc quy rej rif rof rom rwk "
        "saq sbp scn sco seh ses sgs sid sma smj smn sms srn ssy sus swg szl taq teo tok tpi trv tum twq tzl tzm "
        "umb vec vmw vun wae war wbp xog yav yrl zza"
    ),
    "Cyrl": (
        "ab:abk av:ava ba:bak be:bel bg:bul ce:che cu:chu cv:chv kk:kaz kv:kom/kpv ky:kir mk:mkd mn:mon/khk os:oss "
        "ru:rus sr:srp tg:tgk tt:tat uk:ukr ady bua kaa kbd krc mdf mhr mrj myv orv sah tyv xdq"
    ),
    "Arab": (
        "ar:ara/arb fa:fas/pes ks:kas ps:pus/pbu sd:snd ug:uig ur:urd acm acq aeb ajp apc arq ars ary arz azb bal "
        "bgn bqi brh ckb lrc mzn pbt prs sdh skr trw"
    ),
    "Deva": (
        "hi:hin mr:mar ne:nep/npi sa:san/cls anp awa bgc bhb bhd bho bjj bns bra brx doi gbm gom hne kfy kok mag "
        "mai mup noe raj suz xnr"
    ),
    "Ethi": "am:amh ti:tir byn gez tig wal",
    "Cans": "cr:cre/cwd iu:iku/ike oj:oji/ojg csw",
    "Beng": "as:asm bn:ben mni",
    "Hans": "zh:zho/cmn wuu",
    "Hebr": "he:heb yi:yid/ydd",
    "Hmnp": "hnj mww",
    "Knda": "kn:kan kfg",
    "Mymr": "my:mya shn",
    "Tfng": "shi zgh",
    "Tibt": "bo:bod dz:dzo",
    "Armn": "hy:hye",
    "Avst": "ae:ave",
    "Cakm": "ccp",
    "Cher": "chr",
    "Copt": "cop",
    "Geor": "ka:kat",
    "Grek": "el:ell",
    "Gujr": "gu:guj",
    "Guru": "pa:pan",
    "Hang": "ko:kor",
    "Hant": "yue",
    "Jpan": "ja:jpn",
    "Khmr": "km:khm",
    "Laoo": "lo:lao",
    "Mlym": "ml:mal",
    "Nkoo": "nqo",
    "Olck": "sat",
    "Orya": "or:ori/ory",
    "Osge": "osa",
    "Rohg": "rhg",
    "Sinh": "si:sin",
    "Syrc": "syr",
    "Taml": "ta:tam",
    "Tavt": "blt",
    "Telu": "te:tel",
    "Thaa": "dv:div",
    "Thai": "th:tha",
    "Vaii": "vai",
    "Yiii": "ii:iii",
}
ISO = {
    code: (tuple((three or code).split("/")), script)
    for script, entries in TABLE.items()
    for code, _, three in (entry.partition(":") for entry in entries.split())
}
TRADITIONAL = {"zh-tw", "zh-hk", "zh-mo"}  # regions whose Chinese is written in Hant


def iso_languages(code: str) -> list[str]:
    """The ISO codes of a language, the most usual first: "lv" -> ["lav-Latn", "lvs-Latn"]; [] for one not in the table.

    A script in the code comes before the usual one: "zh-Hant" -> ["zho-Hant", "cmn-Hant"].
    """
    language, *subtags = re.split("[-_]", code)
    three, script = ISO.get(language.lower(), ((), ""))
    if not three and re.fullmatch("[a-z]{3}-[A-Z][a-z]{3}", code):  # as benchmarks write it
        return [code]
    script = "Hant" if code.lower().replace("_", "-") in TRADITIONAL else script
    script = next((tag.capitalize() for tag in subtags if re.fullmatch("[A-Za-z]{4}", tag)), script)
    return [f"{each}-{script}" for each in three]


def fitting_language(iso: str, codes: list[str]) -> str | None:
    """The first of our codes that is the language `iso`, in its script rather than in another; None without any."""
    same = [code for code in codes if iso.split("-")[0] in {each.split("-")[0] for each in iso_languages(code)}]
    return next((code for code in same if iso in iso_languages(code)), same[0] if same else None)
