"""Functions in the database: changes that take several statements under a lock, in one round trip.

Owns the order of submissions and of places. `futures_table` calls these functions; `schema` creates them.

Locks are taken in one order, so that no two transactions wait for each other: servers by name, then futures by `seq`.
Only a place that is given to a call in the moment of its cancellation breaks it; PostgreSQL then ends one of two
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

_LOCK: Final = """
CREATE FUNCTION lock_servers(servers text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    each text;
BEGIN
    FOREACH each IN ARRAY ARRAY(SELECT DISTINCT name FROM unnest(servers) AS name ORDER BY name) LOOP
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
            SELECT f.id INTO made FROM futures f
                WHERE f.scope = item.scope AND f.name = item.name AND f.namer IS NOT DISTINCT FROM item.namer
                    AND f.ended_at IS NULL
                LIMIT 1;
            IF FOUND THEN
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

_DEFER: Final = """
CREATE FUNCTION defer_calls(seqs bigint[], queues text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF cardinality(seqs) > 0 THEN
        PERFORM procrastinate_defer_jobs_v1(ARRAY(
            SELECT ROW(queue, 'asyncfc.run', 0, NULL, NULL, jsonb_build_object('seq', seq), NULL)
                    ::procrastinate_job_to_defer_v1
                FROM unnest(seqs, queues) WITH ORDINALITY AS u(seq, queue, place) ORDER BY place
        ));
    END IF;
END $$;
"""

_GIVE: Final = """
-- Gives the free places of a server to the calls that wait for one. Under the lock of the server.
CREATE FUNCTION give_places(of_server text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    chosen bigint[];
    locked bigint[];
    queues text[];
BEGIN
    LOOP
        -- The calls of each tool are a queue of their own, so that a full tool does not have its calls looked through.
        WITH RECURSIVE tools AS (
            (SELECT f.call_tool FROM futures f
                WHERE f.server = of_server AND f.queue IS NOT NULL AND NOT f.placed AND f.ended_at IS NULL
                ORDER BY f.call_tool LIMIT 1)
            UNION ALL
            SELECT (SELECT f.call_tool FROM futures f
                WHERE f.server = of_server AND f.queue IS NOT NULL AND NOT f.placed AND f.ended_at IS NULL
                    AND f.call_tool > t.call_tool
                ORDER BY f.call_tool LIMIT 1)
            FROM tools t WHERE t.call_tool IS NOT NULL
        ), heads AS (
            SELECT t.call_tool, h.seq, h.server_limit, h.tool_limit FROM tools t CROSS JOIN LATERAL (
                SELECT f.seq, f.server_limit, f.tool_limit FROM futures f
                    WHERE f.server = of_server AND f.queue IS NOT NULL AND NOT f.placed AND f.ended_at IS NULL
                        AND f.call_tool = t.call_tool
                    ORDER BY f.seq LIMIT 1
            ) h
        ), room AS (
            -- Null without a limit.
            SELECT CASE WHEN h.server_limit IS NOT NULL THEN greatest(0, h.server_limit - (
                SELECT count(*) FROM futures f WHERE f.server = of_server AND f.placed
            )) END AS free FROM heads h ORDER BY h.seq LIMIT 1
        ), tool_room AS (
            SELECT h.call_tool, CASE WHEN h.tool_limit IS NOT NULL THEN greatest(0, h.tool_limit - (
                SELECT count(*) FROM futures f
                    WHERE f.server = of_server AND f.call_tool = h.call_tool AND f.placed
            )) END AS free FROM heads h
        )
        SELECT array_agg(c.seq) INTO chosen FROM (
            SELECT q.seq FROM room r CROSS JOIN tool_room t CROSS JOIN LATERAL (
                SELECT f.seq FROM futures f
                    WHERE f.server = of_server AND f.queue IS NOT NULL AND NOT f.placed AND f.ended_at IS NULL
                        AND f.call_tool = t.call_tool
                    ORDER BY f.seq LIMIT least(r.free, t.free)
            ) q ORDER BY q.seq LIMIT (SELECT free FROM room)
        ) c;
        EXIT WHEN chosen IS NULL;
        SELECT array_agg(l.seq), array_agg(l.queue) INTO locked, queues FROM (
            SELECT f.seq, f.queue FROM futures f
                WHERE f.seq = ANY (chosen) AND f.queue IS NOT NULL AND NOT f.placed AND f.ended_at IS NULL
                ORDER BY f.seq FOR UPDATE
        ) l;
        UPDATE futures SET placed = true WHERE seq = ANY (locked);
        PERFORM defer_calls(locked, queues);
        -- One that was cancelled in the meantime leaves its place to another.
        EXIT WHEN cardinality(locked) = cardinality(chosen);
    END LOOP;
END $$;
"""

_READY: Final = """
CREATE FUNCTION ready_futures(batch json) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    limited text[];
    seqs bigint[];
    queues text[];
    each text;
BEGIN
    limited := ARRAY(
        SELECT DISTINCT r.server FROM json_to_recordset(batch) AS r(server text, server_limit int, tool_limit int)
            WHERE r.server_limit IS NOT NULL OR r.tool_limit IS NOT NULL
            ORDER BY r.server
    );
    PERFORM lock_servers(limited);
    PERFORM 1 FROM futures f
        WHERE f.seq = ANY (ARRAY(SELECT r.seq FROM json_to_recordset(batch) AS r(seq bigint)))
        ORDER BY f.seq FOR UPDATE;
    WITH changed AS (
        UPDATE futures f SET queue = r.queue, call_tool = r.tool, server_limit = r.server_limit,
                tool_limit = r.tool_limit, placed = r.server_limit IS NULL AND r.tool_limit IS NULL
            FROM json_to_recordset(batch)
                AS r(seq bigint, tool text, queue text, server_limit int, tool_limit int)
            WHERE f.seq = r.seq AND f.state = 'waiting' AND f.ended_at IS NULL AND NOT f.placed
            RETURNING f.seq, f.queue, f.placed
    )
    SELECT array_agg(c.seq ORDER BY c.seq), array_agg(c.queue ORDER BY c.seq) INTO seqs, queues
        FROM changed c WHERE c.placed;
    PERFORM defer_calls(seqs, queues);
    FOREACH each IN ARRAY limited LOOP
        PERFORM give_places(each);
    END LOOP;
END $$;
"""

_FREE: Final = """
-- Locks futures, before that the servers at which they have limited places; returns those with such a place.
CREATE FUNCTION lock_futures(seqs bigint[]) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    places bigint[];
BEGIN
    PERFORM lock_servers(ARRAY(
        SELECT DISTINCT f.server FROM futures f
            WHERE f.seq = ANY (seqs) AND f.placed AND (f.server_limit IS NOT NULL OR f.tool_limit IS NOT NULL)
    ));
    SELECT array_agg(l.seq) FILTER (WHERE l.placed AND (l.server_limit IS NOT NULL OR l.tool_limit IS NOT NULL))
        INTO places
        FROM (SELECT * FROM futures f WHERE f.seq = ANY (seqs) ORDER BY f.seq FOR UPDATE) l;
    RETURN places;
END $$;
-- Gives the places of futures that have left them to others.
CREATE FUNCTION pass_places(seqs bigint[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    servers text[] := ARRAY(SELECT DISTINCT f.server FROM futures f WHERE f.seq = ANY (seqs) ORDER BY f.server);
    each text;
BEGIN
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
    seqs bigint[] := ARRAY(SELECT r.seq FROM json_to_recordset(batch) AS r(seq bigint));
    places bigint[] := lock_futures(seqs);
    ended bigint[];
    at double precision := now_s();
BEGIN
    WITH changed AS (
        UPDATE futures f SET
                state = r.state,
                ended_at = greatest(at, f.submitted_at, f.started_at),
                read_at = CASE WHEN r.read THEN at END,
                kept_until = f.submitted_at
                    + greatest(f.ttl_s, greatest(at, f.submitted_at, f.started_at) - f.submitted_at + f.ttl_s / 2),
                cause = r.cause,
                failure = r.failure,
                round = NULL,
                private = f.private OR r.private,
                has_result = r.has_result,
                size = r.size,
                placed = false,
                end_token = change
            FROM json_to_recordset(batch) AS r(
                seq bigint, ran boolean, state text, read boolean, cause text, failure text, private boolean,
                has_result boolean, size bigint
            )
            WHERE f.seq = r.seq AND f.ended_at IS NULL AND CASE
                WHEN r.ran THEN f.worker = of_worker AND f.state IN ('running', 'input_required')
                ELSE f.state = 'waiting'
            END
            RETURNING f.seq
    )
    SELECT array_agg(c.seq ORDER BY c.seq) INTO ended FROM changed c;
    IF ended IS NOT NULL THEN
        INSERT INTO results
            SELECT r.seq, contents[r.ordinality]
                FROM ROWS FROM (json_to_recordset(batch) AS (seq bigint)) WITH ORDINALITY AS r
                WHERE r.seq = ANY (ended) AND contents[r.ordinality] IS NOT NULL;
        DELETE FROM calls WHERE seq = ANY (ended);
        DELETE FROM questions WHERE seq = ANY (ended);
        PERFORM notify_futures('changed', replica, ended);
        PERFORM pass_places(ARRAY(SELECT p FROM unnest(places) AS p WHERE p = ANY (ended)));
    END IF;
    RETURN QUERY
        SELECT r.ordinality
            FROM ROWS FROM (json_to_recordset(batch) AS (seq bigint)) WITH ORDINALITY AS r
            JOIN futures f ON f.seq = r.seq AND f.end_token = change
            ORDER BY r.ordinality;
END $$;
"""

_REQUEUE: Final = """
CREATE FUNCTION requeue_future(of_seq bigint, of_worker text, change uuid, replica text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    places bigint[] := lock_futures(ARRAY[of_seq]);
BEGIN
    UPDATE futures f SET state = 'waiting', started_at = NULL, worker = NULL, queue = NULL, placed = false,
            start_token = change
        WHERE f.seq = of_seq AND f.ended_at IS NULL AND f.worker = of_worker
            AND f.state IN ('running', 'input_required');
    IF FOUND THEN
        DELETE FROM questions WHERE seq = of_seq;
        PERFORM notify_futures('changed', replica, ARRAY[of_seq]);
        PERFORM pass_places(places);
        RETURN true;
    END IF;
    RETURN EXISTS (SELECT 1 FROM futures f WHERE f.seq = of_seq AND f.start_token = change);
END $$;
"""

FUNCTIONS: Final[tuple[LiteralString, ...]] = (
    _NOW,
    _NOTIFY,
    _LOCK,
    _DEFER,
    _SUBMIT,
    _GIVE,
    _READY,
    _FREE,
    _END,
    _REQUEUE,
)
