-- Where an item that came out of a response is: requests name items by their ids alone.
CREATE TABLE output_items (
    response TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE,
    id TEXT NOT NULL,
    PRIMARY KEY (response, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX output_items_by_id ON output_items (id);

CREATE TRIGGER output_of_new_response AFTER INSERT ON responses BEGIN
    INSERT OR IGNORE INTO output_items (response, id)
    SELECT NEW.id, value ->> 'id' FROM json_each(NEW.body, '$.output') WHERE value ->> 'id' IS NOT NULL;
END;
CREATE TRIGGER output_of_changed_response AFTER UPDATE OF body ON responses BEGIN
    DELETE FROM output_items WHERE response = NEW.id;
    INSERT OR IGNORE INTO output_items (response, id)
    SELECT NEW.id, value ->> 'id' FROM json_each(NEW.body, '$.output') WHERE value ->> 'id' IS NOT NULL;
END;
INSERT OR IGNORE INTO output_items (response, id)
SELECT responses.id, value ->> 'id' FROM responses, json_each(responses.body, '$.output')
WHERE value ->> 'id' IS NOT NULL;

-- Those that went in.
CREATE INDEX response_items_by_id ON response_items (id);
CREATE INDEX conversation_items_by_id ON conversation_items (id);
