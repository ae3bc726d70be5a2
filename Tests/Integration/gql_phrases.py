"""Texts in GQL that stand for the ways of writing a thing, some of which are none."""

NUMBERS = [
    "1.", "1.0", ".5", "-.5", "+1", "+1.5", "- 1", "1e5", "1E5", "1e+5", "1e-5", "1e400", "0x10",
    "007", "-0", "-0.0", "1_000", "9223372036854775807", "-9223372036854775808",
    "9223372036854775808", "NaN", "inf",
]
STRINGS = [
    r"'a\nb'", r"'a\'b'", "'a''b'", '"a""b"', r"'a\\b'", r"'a\qb'", r"'\u0041'", r"'\t'", r"'\`'",
    r"'\%'", r"'\_'", "'\n'", "'\r'", "''", "r'x'",
]
BLOBS = [
    "BLOB('')", "BLOB('eA==')", "BLOB('eA')", "BLOB('-_')", "BLOB('+/')", "BLOB('e')",
    "BLOB('eA=')", "BLOB('eAA=')", "BLOB(' eA')", "blob('eA')",
]
TIMES = [f"DATETIME('{time}')" for time in [
    "2013-09-29T09:30:20.00002-08:00", "2013-09-29T09:30:20Z", "2013-09-29T09:30:20",
    "2013-09-29 09:30:20Z", "2013-09-29T09:30Z", "2013-09-29T09:30:20+0800",
    "2013-09-29T09:30:60Z", "2013-09-29T24:00:00Z", "0000-01-01T00:00:00Z",
    "2013-9-29T09:30:20Z", "2013-09-29T09:30:20,5Z", "2013-09-29T09:30:20.Z",
    "2013-02-29T09:30:20Z", "2013-09-29T09:30:20.123456789Z", "2013-09-29T09:30:20-00:00",
    "2013-09-29T09:30:20+24:00", "2013-09-29T09:30:20+00:00", "2013-09-29T09:30:20+18:00",
    "2013-09-29t09:30:20z",
]]
KEYS = [
    "KEY(Kind, 1)", "KEY(Kind,'a')", "KEY(Kind, 1, Other, 'x')", "KEY(`Kind`, 1)",
    "KEY(Kind, -1)", "KEY(Kind, 1, Other)", "KEY(PROJECT('x'), Kind, 1)",
    "KEY(NAMESPACE('x'), Kind, 1)", "KEY(PROJECT('x'), NAMESPACE('y'), Kind, 1)",
    "KEY(NAMESPACE('y'), PROJECT('x'), Kind, 1)", "KEY()", "KEY(Kind, 1.0)", "KEY(Kind, '')",
    "KEY(Kind, 9223372036854775808)", "key(Kind, 1)", "KEY (Kind, 1)",
]
CONDITIONS = [
    "a == 1", "a <> 1", "a IS NOT NULL", "NOT a = 1", "((a = 1))", "a = 1 AND (c = 1 AND b = 1)",
    "1 = 1", "1 = a", "NULL IS a", "1 CONTAINS a", "1 IN a", "a = ARRAY(1)", "`a`=1", "`a``b`=1",
    "``=1", "a.b=1", "a . b=1", "`a`.b=1", "a.`b`=1", "`a` . `b`=1", "a.FROM=1",
    "a IN 1", "a.=1", ".a=1", "é=1", "1a=1", "a=1AND b=1",
    "__key__ HAS DESCENDANT KEY(Kind,1)", "KEY(Kind,1) HAS ANCESTOR __key__",
    "a HAS DESCENDANT KEY(Kind,1)", "a = 1 # c", "a = 1 /* c */", "1 < a AND 2 > a",
]
QUERIES = [
    "SELECT *, a FROM Kind", "SELECT a, * FROM Kind", "SELECT a, a FROM Kind",
    "SELECT (a) FROM Kind", "SELECT * FROM Kind ORDER BY a ASC, c DESC",
    "SELECT * FROM Kind OFFSET 2 LIMIT 1", "SELECT * FROM Kind LIMIT 1 LIMIT 2",
    "SELECT * FROM Kind LIMIT 1.0", "SELECT * FROM Kind LIMIT +1",
    "SELECT * FROM Kind LIMIT + 1", "SELECT * FROM Kind OFFSET +1",
    "SELECT * FROM Kind LIMIT 1 OFFSET 1 + 1", "SELECT * FROM Kind LIMIT FIRST(1)",
    "SELECT*FROM Kind", "SELECT\u00a0* FROM Kind", "SELECT\f* FROM Kind", "SELECT * FROM K.x",
    "  SELECT * FROM Kind  ", "SELECT\t*\r\nFROM Kind", "SELECT a",
    "SELECT * WHERE a = 1", "SELECT * ORDER BY __key__", "SELECT * FROM Kind AS k",
    "SELECT DISTINCT a,a FROM Kind", "SELECT DISTINCT ON (a,a) * FROM Kind",
    "SELECT DISTINCT ON () * FROM Kind", "SELECT DISTINCT ON a * FROM Kind",
    "SELECT * FROM Kind GROUP BY a",
]
WORDS = (
    "AGGREGATE ALL ANCESTOR AND ARRAY AS ASC AVG BETWEEN BLOB BY CONTAINS COUNT COUNT_UP_TO DATE "
    "DATETIME DESC DESCENDANT DISTINCT FALSE FIRST FROM GROUP HAS HAVING IN IS JOIN KEY LIKE "
    "LIMIT NAMESPACE NOT NULL OFFSET ON OR ORDER OVER PARENT PROJECT SELECT SUM TRUE WHERE"
).split()

PHRASES = [
    *[f"SELECT * FROM Kind WHERE b = {value}"
      for value in NUMBERS + STRINGS + BLOBS + TIMES + KEYS],
    *[f"SELECT * FROM Kind WHERE {condition}" for condition in CONDITIONS],
    *QUERIES,
    *[f"SELECT * FROM {word}" for word in WORDS],
    "SELECT * FROM Kind WHERE ARRAY(1) IN a",
]
