"""Functions in the database: changes that take several statements under a lock, in one round trip.

Owns the order of submissions and of places. `futures_table` calls these functions; `schema` creates them.

Locks are taken in one order, so that no two transactions wait for each other: servers by name, then futures by `seq`.
The holder of a server's lock may lock any of its queued calls, so that changes of these take that lock first. A call
that is queued, or gets a place, in the moment of its cancellation breaks the order; PostgreSQL then ends one of two
transactions, which is repeated.
"""

from typing import Final, LiteralString

RUN_TASK: Final = "asyncfc.run"
"""Name of procrastinate's task that runs a call."""

_NOW: Final = """
CREATE FUNCTION now_s() RETURNS double precision LANGUAGE sql VOLATILE AS
$$ SELECT extract(epoch FROM clock_timestamp())::double precision $$;
"""

# At most 300 futures in a notification, whose payload must be below 8,000 bytes.
_NOTIFY: Final = """
CREATE FUNCTION notify_futures(kind text, replica text, seqs bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    FOR start IN 1 .. coalesce(cardinality(seqs), 0) BY 300 LOOP
        PERFORM pg_notify(
            'asyncfc_' || current_schema(),
            json_build_object('kind', kind, 'by', replica, 'seqs', to_json(seqs[start : start + 299]))::text
        );
    END LOOP;
END $$;
"""

_PARTY: Final = """
-- The party whose share of places a call counts for (see `identity.party_of`); empty where all callers are one
-- principal, and where nobody is authenticated.
CREATE FUNCTION party_of(scope text, listed boolean) RETURNS text LANGUAGE sql IMMUTABLE AS
$$ SELECT CASE WHEN listed AND scope NOT IN ('local', 'token') THEN scope ELSE '' END $$;
"""

_ADMITS: Final = """
-- Whether a party that has `own` places may get one more of those that are free (null: there is no limit).
CREATE FUNCTION admits(party text, own numeric, free numeric, share double precision) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT free IS NULL
        OR (free > 0 AND (
            party = '' OR own = 0 OR share >= 1 OR own < share / nullif(1 - share, 0) * free::double precision
        ))
$$;
"""

_LOCK: Final = """
CREATE FUNCTION lock_servers(servers text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    each text;
BEGIN
    FOREACH each IN ARRAY ARRAY(
        SELECT DISTINCT name COLLATE "C" AS name FROM unnest(servers) AS name ORDER BY name
    ) LOOP
        PERFORM pg_advisory_xact_lock(hashtextextended('server ' || current_schema() || ' ' || each, 0));
    END LOOP;
END $$;
"""

_SUBMIT: Final = """
-- One transaction at a time submits, until its commit: a number in the table means that no lower one appears later.
-- Returns for each of the batch (`place` from 1) its future, or in `of_id` alone the future that has its name; with
-- `place` 0 the last number; and without `place` unfinished futures above `known` that are not of the batch.
CREATE FUNCTION submit_futures(batch json, arguments bytea[], known bigint, replica text)
RETURNS TABLE (place bigint, of_seq bigint, of_id text, since double precision, existed boolean)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    item record;
    made record;
    at double precision;
    counted text;
    number bigint;
    mine bigint[] := '{}';
    created bigint[] := '{}';
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('submit ' || current_schema(), 0));
    at := now_s();
    FOR item IN
        SELECT * FROM ROWS FROM (json_to_recordset(batch) AS (
            token uuid, scope text, id text, listed boolean, server text, tool text, state text, name text, namer text,
            host text, conversation text, ttl_s double precision, cause text, substituted text, after text, round text,
            private boolean, effect text
        )) WITH ORDINALITY
    LOOP
        SELECT f.seq, f.id, f.submitted_at INTO made FROM futures f WHERE f.token = item.token;
        IF FOUND THEN
            mine := mine || made.seq;
            RETURN QUERY SELECT item.ordinality, made.seq, made.id, made.submitted_at, true;
            CONTINUE;
        END IF;
        IF item.name IS NOT NULL THEN
            -- Planned each time: several indexes would do for a small table.
            EXECUTE 'SELECT min(f.id) AS id FROM futures f WHERE f.scope = $1 AND f.name = $2
                AND f.namer IS NOT DISTINCT FROM $3 AND f.name IS NOT NULL AND f.ended_at IS NULL'
                INTO made USING item.scope, item.name, item.namer;
            IF made.id IS NOT NULL THEN
                RETURN QUERY SELECT item.ordinality, NULL::bigint, made.id, at, true;
                CONTINUE;
            END IF;
        END IF;
        IF item.id IS NULL THEN
            IF counted IS DISTINCT FROM item.scope THEN
                IF counted IS NOT NULL THEN
                    UPDATE scopes SET last = number WHERE scope = counted;
                END IF;
                counted := item.scope;
                INSERT INTO scopes VALUES (counted, 0) ON CONFLICT DO NOTHING;
                SELECT s.last INTO number FROM scopes s WHERE s.scope = counted;
            END IF;
            number := number + 1;
        END IF;
        INSERT INTO futures (
            token, scope, id, listed, server, tool, state, name, namer, host, conversation, submitted_at, ttl_s, cause,
            substituted, after, round, private, effect, owner
        ) VALUES (
            item.token, item.scope, coalesce(item.id, 'f' || number), item.listed, item.server, item.tool, item.state,
            item.name, item.namer, item.host, item.conversation, at, item.ttl_s, item.cause,
            item.substituted, item.after, item.round, item.private, item.effect, replica
        ) RETURNING seq, id INTO made;
        IF arguments[item.ordinality] IS NOT NULL THEN
            INSERT INTO calls VALUES (made.seq, arguments[item.ordinality]);
        END IF;
        mine := mine || made.seq;
        created := created || made.seq;
        RETURN QUERY SELECT item.ordinality, made.seq, made.id, at, false;
    END LOOP;
    IF counted IS NOT NULL THEN
        UPDATE scopes SET last = number WHERE scope = counted;
    END IF;
    IF cardinality(created) > 0 THEN
        PERFORM notify_futures('submitted', replica, created[cardinality(created):]);
    END IF;
    RETURN QUERY SELECT 0::bigint, greatest(known, max(f.seq)), NULL, at, true FROM futures f;
    RETURN QUERY
        SELECT NULL::bigint, f.seq, f.id, f.submitted_at, true FROM futures f
            WHERE f.seq > known AND f.ended_at IS NULL AND f.seq <> ALL (mine) ORDER BY f.seq;
END $$;
"""

_DEFER: Final = f"""
CREATE FUNCTION defer_calls(seqs bigint[], queues text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF cardinality(seqs) > 0 THEN
        PERFORM procrastinate_defer_jobs_v1(ARRAY(
            SELECT ROW(queue, '{RUN_TASK}', 0, NULL, NULL, jsonb_build_object('seq', seq), NULL)
                    ::procrastinate_job_to_defer_v1
                FROM unnest(seqs, queues) WITH ORDINALITY AS u(seq, queue, place) ORDER BY place
        ));
    END IF;
END $$;
"""

_GIVE: Final = """
-- Gives a place to the queued call of this row, unless it does not wait any more; returns whether it did.
CREATE FUNCTION give_place(call queued) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM queued q
        WHERE q.server = call.server AND q.party = call.party AND q.call_tool = call.call_tool AND q.seq = call.seq;
    UPDATE futures f SET placed = true WHERE f.seq = call.seq AND f.state = 'waiting' AND NOT f.placed;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO places VALUES (call.server, call.call_tool, call.seq, true, call.party);
    RETURN true;
END $$;
-- Gives the free places of a server to the calls that wait for one, where several parties wait: one at a time, to the
-- party with the fewest places, then to the one that was given one longest ago. Each may have a share of the places
-- (see `retention.allowance`).
CREATE FUNCTION share_places(of_server text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    call queued;
    seqs bigint[] := '{}';
    queues text[] := '{}';
BEGIN
    LOOP
        WITH RECURSIVE keys AS (
            (SELECT q.party, q.call_tool FROM queued q WHERE q.server = of_server
                ORDER BY q.party, q.call_tool LIMIT 1)
            UNION ALL
            SELECT n.party, n.call_tool FROM keys k CROSS JOIN LATERAL (
                SELECT q.party, q.call_tool FROM queued q
                    WHERE q.server = of_server AND (q.party, q.call_tool) > (k.party, k.call_tool)
                    ORDER BY q.party, q.call_tool LIMIT 1
            ) n
        ), heads AS (
            SELECT h.call, h.party, h.call_tool, h.seq, h.server_limit, h.tool_limit, h.share
            FROM keys k CROSS JOIN LATERAL (
                SELECT q AS call, q.* FROM queued q
                    WHERE q.server = of_server AND q.party = k.party AND q.call_tool = k.call_tool
                    ORDER BY q.seq LIMIT 1
            ) h
        ), taken AS (
            SELECT p.call_tool, p.party, count(*) AS number FROM places p WHERE p.server = of_server
                GROUP BY p.call_tool, p.party
        ), counted AS (
            SELECT h.*,
                h.server_limit - (SELECT coalesce(sum(t.number), 0) FROM taken t) AS server_free,
                (SELECT coalesce(sum(t.number), 0) FROM taken t WHERE t.party = h.party) AS server_own,
                h.tool_limit - (
                    SELECT coalesce(sum(t.number), 0) FROM taken t WHERE t.call_tool = h.call_tool
                ) AS tool_free,
                (
                    SELECT coalesce(sum(t.number), 0) FROM taken t
                        WHERE t.call_tool = h.call_tool AND t.party = h.party
                ) AS tool_own
            FROM heads h
        )
        SELECT (c.call).* INTO call FROM counted c LEFT JOIN turns t ON t.server = of_server AND t.party = c.party
            WHERE admits(c.party, c.server_own, c.server_free, c.share)
                AND admits(c.party, c.tool_own, c.tool_free, c.share)
            ORDER BY c.server_own, t.given_at NULLS FIRST, c.seq LIMIT 1;
        EXIT WHEN NOT FOUND;
        IF give_place(call) THEN
            seqs := seqs || call.seq;
            queues := queues || call.queue;
            INSERT INTO turns VALUES (of_server, call.party, now_s())
                ON CONFLICT (server, party) DO UPDATE SET given_at = excluded.given_at;
        END IF;
    END LOOP;
    PERFORM defer_calls(seqs, queues);
END $$;
-- Gives the free places of a server to the calls that wait for one. Under the lock of the server.
CREATE FUNCTION give_places(of_server text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    chosen queued[];
    call queued;
    missed boolean;
    seqs bigint[] := '{}';
    queues text[] := '{}';
BEGIN
    IF EXISTS (SELECT 1 FROM queued q WHERE q.server = of_server AND q.party > '') THEN
        PERFORM share_places(of_server);
        RETURN;
    END IF;
    LOOP
        -- The calls of each tool are a queue of their own, so that the calls of a full tool are not looked through.
        WITH RECURSIVE tools AS (
            (SELECT q.call_tool FROM queued q WHERE q.server = of_server AND q.party = ''
                ORDER BY q.call_tool LIMIT 1)
            UNION ALL
            SELECT (SELECT q.call_tool FROM queued q
                WHERE q.server = of_server AND q.party = '' AND q.call_tool > t.call_tool
                ORDER BY q.call_tool LIMIT 1)
            FROM tools t WHERE t.call_tool IS NOT NULL
        ), heads AS (
            SELECT t.call_tool, h.seq, h.server_limit, h.tool_limit FROM tools t CROSS JOIN LATERAL (
                SELECT q.seq, q.server_limit, q.tool_limit FROM queued q
                    WHERE q.server = of_server AND q.party = '' AND q.call_tool = t.call_tool ORDER BY q.seq LIMIT 1
            ) h
        ), room AS (
            -- Null without a limit.
            SELECT CASE WHEN h.server_limit IS NOT NULL THEN greatest(0, h.server_limit - (
                SELECT count(*) FROM places p WHERE p.server = of_server
            )) END AS free FROM heads h ORDER BY h.seq LIMIT 1
        ), tool_room AS (
            SELECT h.call_tool, CASE WHEN h.tool_limit IS NOT NULL THEN greatest(0, h.tool_limit - (
                SELECT count(*) FROM places p WHERE p.server = of_server AND p.call_tool = h.call_tool
            )) END AS free FROM heads h
        )
        SELECT array_agg(c.call) INTO chosen FROM (
            SELECT q.call FROM room r CROSS JOIN tool_room t CROSS JOIN LATERAL (
                SELECT q AS call, q.seq FROM queued q
                    WHERE q.server = of_server AND q.party = '' AND q.call_tool = t.call_tool
                    ORDER BY q.seq LIMIT least(r.free, t.free)
            ) q ORDER BY q.seq LIMIT (SELECT free FROM room)
        ) c;
        EXIT WHEN chosen IS NULL;
        missed := false;
        FOREACH call IN ARRAY chosen LOOP
            IF give_place(call) THEN
                seqs := seqs || call.seq;
                queues := queues || call.queue;
            ELSE
                missed := true;
            END IF;
        END LOOP;
        -- One that was cancelled in the meantime leaves its place to another.
        EXIT WHEN NOT missed;
    END LOOP;
    PERFORM defer_calls(seqs, queues);
END $$;
"""

_READY: Final = """
CREATE FUNCTION ready_futures(batch json) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    limited text[] := ARRAY(
        SELECT DISTINCT r.server COLLATE "C" AS name
            FROM json_to_recordset(batch) AS r(server text, server_limit int, tool_limit int)
            WHERE r.server_limit IS NOT NULL OR r.tool_limit IS NOT NULL
            ORDER BY name
    );
    item record;
    seqs bigint[] := '{}';
    queues text[] := '{}';
    party text;
    each text;
BEGIN
    PERFORM lock_servers(limited);
    FOR item IN
        SELECT * FROM json_to_recordset(batch)
                AS r(seq bigint, server text, tool text, queue text, server_limit int, tool_limit int,
                    share double precision)
            ORDER BY r.seq
    LOOP
        UPDATE futures f SET call_tool = item.tool,
                placed = item.server_limit IS NULL AND item.tool_limit IS NULL
            WHERE f.seq = item.seq AND f.state = 'waiting' AND NOT f.placed
            RETURNING party_of(f.scope, f.listed) INTO party;
        CONTINUE WHEN NOT FOUND;
        IF item.server_limit IS NULL AND item.tool_limit IS NULL THEN
            INSERT INTO places VALUES (item.server, item.tool, item.seq, false, party);
            seqs := seqs || item.seq;
            queues := queues || item.queue;
        ELSE
            INSERT INTO queued VALUES (
                item.server, party, item.tool, item.seq, item.queue, item.server_limit, item.tool_limit, item.share
            ) ON CONFLICT DO NOTHING;
        END IF;
    END LOOP;
    PERFORM defer_calls(seqs, queues);
    FOREACH each IN ARRAY limited LOOP
        PERFORM give_places(each);
    END LOOP;
END $$;
"""

_FREE: Final = """
-- Locks futures, before that the servers at which they are queued or have limited places; returns those with such a
-- place.
CREATE FUNCTION has_limited_place(of_server text, of_tool text, of_seq bigint) RETURNS boolean LANGUAGE sql AS $$
    SELECT coalesce((
        SELECT p.limited FROM places p WHERE p.server = of_server AND p.call_tool = of_tool AND p.seq = of_seq
    ), false)
$$;
CREATE FUNCTION is_queued(of_server text, of_party text, of_tool text, of_seq bigint) RETURNS boolean
LANGUAGE sql AS $$
    SELECT EXISTS (
        SELECT 1 FROM queued q
            WHERE q.server = of_server AND q.party = of_party AND q.call_tool = of_tool AND q.seq = of_seq
    )
$$;
CREATE FUNCTION lock_futures(seqs bigint[]) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    places bigint[];
BEGIN
    PERFORM lock_servers(ARRAY(
        SELECT f.server FROM futures f WHERE f.seq = ANY (seqs) AND f.call_tool IS NOT NULL
            AND CASE WHEN f.placed THEN has_limited_place(f.server, f.call_tool, f.seq)
                ELSE is_queued(f.server, party_of(f.scope, f.listed), f.call_tool, f.seq) END
    ));
    SELECT array_agg(l.seq) FILTER (WHERE l.placed AND has_limited_place(l.server, l.call_tool, l.seq)) INTO places
        FROM (SELECT * FROM futures f WHERE f.seq = ANY (seqs) ORDER BY f.seq FOR UPDATE) l;
    RETURN places;
END $$;
-- Takes futures out of the queue, or their places back. `limited` of them had places that others wait for.
CREATE FUNCTION leave_places(seqs bigint[], limited bigint[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    servers text[];
    seq_left bigint;
    call record;
    each text;
BEGIN
    FOREACH seq_left IN ARRAY seqs LOOP
        SELECT f.server, f.call_tool, party_of(f.scope, f.listed) AS party INTO call
            FROM futures f WHERE f.seq = seq_left;
        CONTINUE WHEN call.call_tool IS NULL;
        DELETE FROM places p WHERE p.server = call.server AND p.call_tool = call.call_tool AND p.seq = seq_left;
        IF NOT FOUND THEN
            DELETE FROM queued q WHERE q.server = call.server AND q.party = call.party
                AND q.call_tool = call.call_tool AND q.seq = seq_left;
        END IF;
    END LOOP;
    servers := ARRAY(
        SELECT DISTINCT f.server FROM futures f
            WHERE f.seq = ANY (seqs) AND f.seq = ANY (limited) ORDER BY f.server
    );
    PERFORM lock_servers(servers);
    FOREACH each IN ARRAY servers LOOP
        PERFORM give_places(each);
    END LOOP;
END $$;
"""

_END: Final = """
-- Returns the places in the batch (from 1) of ends that are written, now or by an earlier run of the same change.
CREATE FUNCTION end_futures(batch json, contents bytea[], of_worker text, change uuid, replica text)
RETURNS TABLE (place bigint) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    places bigint[] := lock_futures(ARRAY(SELECT r.seq FROM json_to_recordset(batch) AS r(seq bigint)));
    item record;
    ended bigint[] := '{}';
    at double precision := now_s();
BEGIN
    FOR item IN
        SELECT * FROM ROWS FROM (json_to_recordset(batch) AS (
            seq bigint, ran boolean, state text, read boolean, cause text, failure text, private boolean,
            has_result boolean, size bigint
        )) WITH ORDINALITY AS r ORDER BY r.seq, r.ordinality
    LOOP
        UPDATE futures f SET
                state = item.state,
                ended_at = greatest(at, f.submitted_at, f.started_at),
                read_at = CASE WHEN item.read THEN at END,
                kept_until = f.submitted_at
                    + greatest(f.ttl_s, greatest(at, f.submitted_at, f.started_at) - f.submitted_at + f.ttl_s / 2),
                cause = item.cause,
                failure = item.failure,
                round = NULL,
                private = f.private OR item.private,
                has_result = item.has_result,
                size = item.size,
                placed = false,
                end_token = change
            WHERE f.seq = item.seq AND f.ended_at IS NULL AND CASE
                WHEN item.ran THEN f.worker = of_worker AND f.state IN ('running', 'input_required')
                ELSE f.state = 'waiting'
            END;
        IF FOUND THEN
            ended := ended || item.seq;
            IF contents[item.ordinality] IS NOT NULL THEN
                INSERT INTO results VALUES (item.seq, contents[item.ordinality]);
            END IF;
            RETURN QUERY SELECT item.ordinality;
        ELSIF NOT item.seq = ANY (ended) THEN
            RETURN QUERY SELECT item.ordinality FROM futures f WHERE f.seq = item.seq AND f.end_token = change;
        END IF;
    END LOOP;
    IF cardinality(ended) > 0 THEN
        DELETE FROM calls WHERE seq = ANY (ended);
        DELETE FROM questions WHERE seq = ANY (ended);
        PERFORM notify_futures('changed', replica, ended);
        PERFORM leave_places(ended, places);
    END IF;
END $$;
"""

_REQUEUE: Final = """
CREATE FUNCTION requeue_future(of_seq bigint, of_worker text, change uuid, replica text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    places bigint[] := lock_futures(ARRAY[of_seq]);
BEGIN
    UPDATE futures f SET state = 'waiting', started_at = NULL, worker = NULL, placed = false, owner = replica,
            start_token = change
        WHERE f.seq = of_seq AND f.ended_at IS NULL AND f.worker = of_worker
            AND f.state IN ('running', 'input_required');
    IF FOUND THEN
        DELETE FROM questions WHERE seq = of_seq;
        PERFORM notify_futures('changed', replica, ARRAY[of_seq]);
        PERFORM leave_places(ARRAY[of_seq], places);
        RETURN true;
    END IF;
    RETURN EXISTS (SELECT 1 FROM futures f WHERE f.seq = of_seq AND f.start_token = change);
END $$;
"""

_OWN: Final = """
-- Gives the unfinished futures of some replicas, and those of none, another owner, or none; returns them.
CREATE FUNCTION own_futures(former text[], new_owner text, change uuid) RETURNS SETOF futures
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM lock_servers(ARRAY(SELECT q.server FROM queued q));
    PERFORM 1 FROM futures f
        WHERE f.ended_at IS NULL AND (f.owner IS NULL OR f.owner = ANY (former)) ORDER BY f.seq FOR UPDATE;
    RETURN QUERY
        UPDATE futures f SET owner = new_owner, owner_token = change
            WHERE f.ended_at IS NULL AND (f.owner IS NULL OR f.owner = ANY (former) OR f.owner_token = change)
            RETURNING f.*;
END $$;
"""

_READY_2: Final[LiteralString] = (
    _READY.replace("FUNCTION ready_futures(", "FUNCTION ready_futures_2(")
    .replace("share double precision)", "share double precision, waits text)")
    .replace("SET call_tool = item.tool,", "SET call_tool = item.tool, waits = coalesce(item.waits, f.waits),")
    .replace(
        "        PERFORM give_places(each);\n    END LOOP;\n",
        """        PERFORM give_places(each);
    END LOOP;
    IF cardinality(limited) > 0 THEN
        UPDATE futures f SET queued_at = now_s()
            WHERE f.seq IN (SELECT r.seq FROM json_to_recordset(batch) AS r(seq bigint))
                AND f.state = 'waiting' AND NOT f.placed;
    END IF;
""",
    )
)
"""As `ready_futures`, which replicas of the first version use. Writes what a call has waited for as well, and since
when it lacks nothing but a place."""

_END_2: Final[LiteralString] = (
    _END.replace("FUNCTION end_futures(", "FUNCTION end_futures_2(")
    .replace("has_result boolean, size bigint", "has_result boolean, size bigint, waits text, attempts int")
    .replace(
        "                size = item.size,\n",
        "                size = item.size,\n"
        "                waits = coalesce(item.waits, f.waits),\n"
        "                attempts = item.attempts,\n",
    )
)
"""As `end_futures`, which replicas of the first version use. Writes the number of attempts as well, and what a call has
waited for that has not started."""

HISTORY: Final[tuple[LiteralString, ...]] = (_READY_2, _END_2)
FUNCTIONS: Final[tuple[LiteralString, ...]] = (
    _NOW,
    _NOTIFY,
    _PARTY,
    _ADMITS,
    _LOCK,
    _DEFER,
    _SUBMIT,
    _GIVE,
    _READY,
    _FREE,
    _END,
    _REQUEUE,
    _OWN,
)
