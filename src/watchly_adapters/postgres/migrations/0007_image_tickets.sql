-- Until when a ticket lets somebody write under the key; the sweeper comes after that.
ALTER TABLE images ADD COLUMN open_until timestamptz;

-- What the sweeper has given up is due no more. Earlier versions make no such rows, and pass over them.
ALTER TABLE images DROP CONSTRAINT images_check;
ALTER TABLE images ADD CONSTRAINT images_check CHECK (
    CASE state WHEN 'attached' THEN due_at IS NULL WHEN 'deleting' THEN true ELSE due_at IS NOT NULL END
);
CREATE INDEX images_dead ON images (key COLLATE "C") WHERE state = 'deleting' AND due_at IS NULL;
