"""Mutants that nothing can tell from the scripts as they are, each with the reason why.

By script, line and changed line, so that an entry lives as long as the line does; tests/model/test_mutants.py sees to
it that none outlives its line.
"""

from typing import Final

_NAMES: Final = (
    "local STATE, DELIVERY, ATTEMPT, CRASHES, ADDED, DUE, RESERVED, BEGUN, CHANGED = 1, 2, 3, 4, {}, 6, 7, 8, 9"
)
_MORE_NAMES: Final = "local STATUS, REASON, HOLDER, TOKEN, METHOD, PATH, LABEL, PRIORITY = 10, 11, 12, 13, {}, 17"
_UNREAD: Final = "it stands there for the reader: no script uses the name of what is only set by store()"
_UNKNOWN: Final = (
    "fail(id, task or {{'{}', 0, 0, 0, at, 0, 0, 0, at, 0, '{}', '', '', '', '', '', NORMAL, '', '', '', 0, 0, 0}},"
    " 'format')"
)
_SAVED: Final = "state and reason are set in any case, before it is saved"
_FIRST: Final = "elseif task[DELIVERY] {} {} then"
_NO_EARLIER: Final = "a first delivery has no earlier one that could have left a response"
_SLOW: Final = "local slowed = slow ~= '0' and math.max(at + slow, redis.call('HGET', CONTROL, 'slowed') or {})"
_LOOKED: Final = "for i = {}, #ARGV, {} do table.insert(ids, ARGV[i]) end"
_THREES: Final = (("2", "3"), ("(1 - 1)", "3"), ("1", "4"), ("1", "(3 - 1)"))
_STEPS: Final = (("first", "10"), ("first", "(9 - 1)"))
_BATCH: Final = "local ids = redis.call('LRANGE', from, -math.min(room - count, {}), -1)"
_AT_ONCE: Final = "how many are looked at at once changes nothing in what is given"
_NOT_FAILED: Final = "for its parent, whatever has not failed is the same"
_STORED: Final = "local task = {'', 0, 0, 0, at, due, 0, 0, at, 0, '', '', '', from[i + 3], from[i + 4], from[i + 5],"
_FOUND: Final = "if task[{}] ~= '{}' then gather(leaving, 'ZREM', base .. by[1] .. task[by[2]], id) end"
_NINES: Final = "what has ended comes in nines, so that the step before the first of them is below either bound"
_REPLY: Final = "reply[2] = settle({}, ARGV[6])"
_SOONER: Final = "it saves round trips inside the script: what is not looked at beforehand is when it is needed"
_SECOND: Final = "only the first of what Redis answers is read"
_FULL: Final = "it matters only while the memory is full, and then it is the command that counts, not the field"
_SLOWED: Final = "if at < tonumber(control[1] or {}) or control[2] or control[3] then return 0 end"
_LONG_AGO: Final = "a millisecond before or after the beginning of 1970 is as far from now"
_NO_EPOCH: Final = "neither is an epoch, so that the pattern finds nothing in it"
_DAY: Final = (
    "a day less a millisecond is as good, and passes in real time, which the model does not look at so closely"
)
_NO_LINE: Final = "there is no line above the highest priority, nor below the lowest"
_NO_ROOM: Final = "no room is no room, however little"
_EACH_LINE: Final = "for priority = {}, {} do redis.call('UNLINK', line(priority)) end"

_REDIS_6: Final = "answers[first] = type(why) == 'string' and {err = why} or why -- text is what Redis 6 has"
_ERROR: Final = (
    "the model raises no error, and later versions raise a table; tests/contract/test_together.py raises one"
)
_SAVED_LOOKS: Final = "it saves looks where there is nothing to see"
_NOTHING_DUE: Final = "if redis.call('EXISTS', base .. ':scheduled', base .. ':prepared') == 0 then return -1 end"
_LOGGED: Final = "local logged = redis.call('EXISTS', unpack(logs)) > 0"
_TRY: Final = "if #changed > 1 then try() end"
_ALONE: Final = "if first == last then"
_DROP: Final = "arriving, changed, known, weight, counted, held = {}, {}, {}, nil, nil, nil"
_EACH_ALONE: Final = "for i = first, last do answer(commits, answers, i, i, place) end"
_ALL_IDS: Final = "for i = first + HEAD, last, VALUES do ids[#ids + 1] = ARGV[i] end"
_LAST: Final = "local last = math.min(first + WIDE - 1, #ids)"
_PUT: Final = "if not changed[id] then changed[id], changed[#changed + 1] = true, id end"
_TYPES: Final = (
    "if #t ~= SPOILT or t[1] < '' or t[2] < NONE or t[3] < NONE or t[4] < NONE or t[5] < NONE or t[6] < NONE",
    "or t[7] < NONE or t[8] < NONE or t[9] < NONE or t[10] < NONE or t[11] < '' or t[12] < '' or t[13] < ''",
    "or t[14] < '' or t[15] < '' or t[16] < '' or t[18] < '' or t[19] < '' or t[20] < '' or t[21] < NONE",
    "or t[22] < NONE or t[23] < NONE then return end",
)
_LESS_THAN_ANY: Final = "nobody writes a number that is less than any"
_SAME: Final = "if move and move[1] == command then"
_SHORT: Final = "if #move <= WIDE then return redis.call(unpack(move)) end"
_MORE_COMMANDS: Final = "the same moves in more commands, or fewer; tests/contract/test_broker_redis.py counts them"
_SUM: Final = "sum = sum + (i > 1 and redis.call('HSTRLEN', RECORDS, ids[i]) or 0)"
_ENOUGH: Final = "if sum > tonumber(ARGV[5]) then break end"
_READ: Final = "how many are read changes nothing in what is given; tests/contract/test_broker_redis.py looks at it"
_FEW: Final = "if #ids == 1 or #ids * 8 < redis.call('LLEN', reserved) then"
_HELD_BACK: Final = "return weight, at < tonumber(control[3] or 0) or control[4] or control[5] or control[6]"
_HANDED: Final = "local handed = lease[4] and wait_no_more(ARGV[1], lease[2])"
_LONGEST: Final = "local first = #ARGV[6] <= LARGEST and redis.call('ZRANGE', base .. ':idle', 0, 0)[1]"
_EACH: Final = "for priority = 0, 9 do lines[priority + 2] = base .. ':p' .. priority end"
_LET_GO: Final = "if #ended > 0 then let_go(ended) end"


def _altered(script: str, line: str, reason: str, *changes: tuple[str, str]) -> dict[tuple[str, str, str], str]:
    """Return an entry for each of these changes of a line, at the first place where it fits."""
    return {(script, line, line.replace(before, after, 1)): reason for before, after in changes}


EQUIVALENT: Final[dict[tuple[str, str, str], str]] = {
    **{("_state", _NAMES.format("5"), _NAMES.format(other)): _UNREAD for other in ("6", "(5 - 1)")},
    **{
        ("_state", _MORE_NAMES.format("14, 15, 16"), _MORE_NAMES.format(other)): _UNREAD
        for other in (
            "15, 15, 16",
            "(14 - 1), 15, 16",
            "14, 16, 16",
            "14, (15 - 1), 16",
        )
    },
    **{("_ends", _UNKNOWN.format("", ""), _UNKNOWN.format(*other)): _SAVED for other in (("other", ""), ("", "other"))},
    **{
        (
            "due",
            "local next_due = redis.call('ZRANGE', base .. ':scheduled', 0, 0, 'WITHSCORES')[2]",
            f"local next_due = redis.call('ZRANGE', base .. ':scheduled', 0, {other}, 'WITHSCORES')[2]",
        ): _SECOND
        for other in ("1", "(0 - 1)")
    },
    **{
        ("_drain", "redis.call('HDEL', CONTROL, '')", other): _FULL
        for other in ("", "redis.call('HDEL', CONTROL, 'other')")
    },
    (
        "reclaim",
        "local number, random = string.match(owner[1] or '', '^(%d+)-(.*)$')",
        "local number, random = string.match(owner[1] or 'other', '^(%d+)-(.*)$')",
    ): _NO_EPOCH,
    ("reclaim", "redis.call('PEXPIRE', me, 86400000)", "redis.call('PEXPIRE', me, (86400000 - 1))"): _DAY,
    ("_lines", "for priority = 9, 0, -1 do", "for priority = 9, (0 - 1), -1 do"): _NO_LINE,
    **{("_allowed", _SLOWED.format("0"), _SLOWED.format(other)): _LONG_AGO for other in ("1", "(0 - 1)")},
    (
        "_allowed",
        _SLOWED.format("0"),
        _SLOWED.format("0").replace("return 0", "return (0 - 1)"),
    ): _NO_ROOM,
    (
        "exchange",
        "local room = repeated == 0 and allowed(tonumber(ARGV[4])) or 0",
        "local room = repeated == 0 and allowed(tonumber(ARGV[4])) or (0 - 1)",
    ): _NO_ROOM,
    **{
        (script, line.format("0", "9"), line.format(*other)): _NO_LINE
        for script, line in (("reset", _EACH_LINE), ("purge", "for priority = {}, {} do"))
        for other in (("(0 - 1)", "9"), ("0", "10"))
    },
    **{
        ("_outcomes", _FIRST.format(">", "1"), _FIRST.format(*other)): _NO_EARLIER
        for other in ((">=", "1"), (">", "(1 - 1)"))
    },
    **{("_settle", _SLOW.format("0"), _SLOW.format(other)): _LONG_AGO for other in ("1", "(0 - 1)")},
    **{
        ("_settle", _LOOKED.format("first", "9"), other): _SOONER
        for other in ("", *(_LOOKED.format(*how) for how in _STEPS))
    },
    **{
        ("begin", _LOOKED.format("1", "3"), other): _SOONER
        for other in ("", *(_LOOKED.format(*how) for how in _THREES))
    },
    **{(script, "look(ids)", ""): _SOONER for script in ("begin", "due", "_return", "_serve", "_settle", "_together")},
    ("trim", "look(old)", ""): _SOONER,
    ("promote", "look(ARGV)", ""): _SOONER,
    **_altered("due", _NOTHING_DUE, _SAVED_LOOKS, (_NOTHING_DUE, ""), ("== 0", "== (0 - 1)")),
    **_altered("trim", _LOGGED, _SAVED_LOOKS, (">", ">="), ("0", "(0 - 1)")),
    **_altered("trim", "if held > 0 then", _SAVED_LOOKS, (">", ">="), ("0", "(0 - 1)")),
    **{
        ("_drain", _FOUND.format("by[2]", ""), _FOUND.format(*other)): "from an index that there is not, nothing goes"
        for other in (("by[3]", ""), ("by[(2 - 1)]", ""), ("by[2]", "other"))
    },
    ("exchange", _REPLY.format("9"), _REPLY.format("(9 - 1)")): _NINES,
    **{("exchange", _BATCH.format("100"), _BATCH.format(other)): _AT_ONCE for other in ("101", "(100 - 1)")},
    **{
        (script, line, line.replace("'cancelled'", "''")): _NOT_FAILED
        for script, line in (
            ("discard", "tell_parent(task, 'cancelled')"),
            ("purge", "if task then tell_parent(task, 'cancelled') end"),
        )
    },
    ("_store", _STORED, _STORED.replace("{''", "{'other'")): _SAVED,
    (
        "_together",
        "while first < #ARGV do",
        "while first <= #ARGV do",
    ): "no commit begins with the last argument: a head of four stands before its tasks",
    **_altered("_together", _REDIS_6, _ERROR, ("==", "~="), ("'string'", "''"), ("and", "or"), (" or", " and")),
    ("_together", _REDIS_6, ""): _ERROR,
    **{
        key: _ERROR
        for command, counting in (("HSET", "HLEN"), ("ZADD", "ZCARD"), ("LPUSH", "LLEN"))
        for line in [f"if move[1] == '{command}' then redis.call('{counting}', move[2]) end"]
        for other in ("''", "'RPUSH'")
        if (command == "LPUSH") == (other == "'RPUSH'")
        for key in _altered(
            *("_together", line, "", (line, ""), ("[1]", "[2]"), ("[1]", "[(1 - 1)]"), (f"'{command}'", other)),
            *(("[2]", "[3]"), ("[2]", "[(2 - 1)]")),
        )
    },
    **_altered(
        *("_together", _TRY, _ERROR, (_TRY, ""), (">", ">="), (">", "<"), ("1", "2"), ("1", "(1 - 1)")),
        ("#changed > 1", "not (#changed > 1)"),
    ),
    **_altered("_together", _ALONE, _ERROR, ("==", "~="), ("first == last", "not (first == last)")),
    **{("_together", line, ""): _ERROR for line in (_DROP, "drop()", _EACH_ALONE)},
    **_altered(
        *("_together", _ALL_IDS, _SOONER, (_ALL_IDS, ""), ("first +", "first -"), ("ids +", "ids -")),
        *(("1]", "2]"), ("1]", "(1 - 1)]")),
    ),
    **_altered(
        *("_task", _LAST, _AT_ONCE, ("WIDE -", "WIDE +"), ("1,", "2,"), ("1,", "(1 - 1),")),
    ),
    **_altered("_task", _PUT, "what is written twice is the same", ("true", "false")),
    **{
        key: _LESS_THAN_ANY
        for line in _TYPES
        for place in range(2, 24)
        if f"t[{place}] < NONE" in line
        for key in _altered("_state", line, "", (f"t[{place}] <", f"t[{place}] <="))
    },
    **_altered("_alone", _HELD_BACK, _LONG_AGO, ("or 0)", "or 1)"), ("or 0)", "or (0 - 1))")),
    **_altered("_late", _LONGEST, _SECOND, ("0, 0", "0, 1"), ("0, 0", "0, (0 - 1)")),
    **_altered("_late", _EACH, _NO_LINE, ("0, 9", "0, 10")),
    **{
        key: "without a token, of a name that nobody has or a lease that is spoilt, nobody waits"
        for script, found in (("claim", "owner[3]"), ("reclaim", "owner[4]"), ("leave", "lease[2]"))
        for key in _altered(script, f"wait_no_more(ARGV[1], {found} or '')", "", ("or ''", "or 'other'"))
    },
    **_altered(
        *("_serve", "for i = #ids, 1, -1 do", "no id stands there, and nothing is added to the sum"),
        ("1, -1", "(1 - 1), -1"),
    ),
    **_altered("exchange", _HANDED, "who does not wait has nothing to give up", ("[4]", "[(4 - 1)]")),
    **_altered("_moves", _SAME, _MORE_COMMANDS, ("[1]", "[2]"), ("[1]", "[(1 - 1)]")),
    **_altered("_moves", _SHORT, _MORE_COMMANDS, ("<=", "<"), ("#move <= WIDE", "not (#move <= WIDE)"), (_SHORT, "")),
    **_altered(
        *("_serve", _SUM, _READ, (_SUM, "")),
        *(
            (">", ">="),
            (">", "<"),
            ("1", "2"),
            ("1", "(1 - 1)"),
            ("sum +", "sum -"),
            ("or 0", "or 1"),
            ("or 0", "or (0 - 1)"),
        ),
    ),
    **_altered(
        *("_serve", _ENOUGH, _READ, (_ENOUGH, "")),
        *(
            (">", ">="),
            (">", "<"),
            ("5", "6"),
            ("5", "(5 - 1)"),
            ("sum > tonumber(ARGV[5])", "not (sum > tonumber(ARGV[5]))"),
        ),
    ),
    **_altered(
        *("_letting", _FEW, "either way the same ids go", ("==", "~="), ("1", "2"), ("1", "(1 - 1)"), ("or", "and")),
        *(("8", "9"), ("8", "(8 - 1)"), ("<", "<="), ("<", ">"), (_FEW[3:-5], f"not ({_FEW[3:-5]})")),
    ),
    **_altered("_letting", "for i = #held, 1, -1 do", "nothing stands before the first", (" 1", " (1 - 1)")),
    **_altered("_settle", _LET_GO, "nothing ended, so nothing goes", (">", ">="), ("0", "(0 - 1)")),
}
