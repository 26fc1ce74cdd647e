-- cdr_odbc with loguniqueid and newcdrcolumns, without dispositionstring, with hrtime: integer dispositions, fractional
-- durations.
CREATE TABLE cdr (
  calldate DATETIME, clid VARCHAR(80), src VARCHAR(80), dst VARCHAR(80), dcontext VARCHAR(80), channel VARCHAR(80),
  dstchannel VARCHAR(80), lastapp VARCHAR(80), lastdata VARCHAR(80), duration DOUBLE, billsec DOUBLE, disposition INT,
  amaflags INT, accountcode VARCHAR(20), uniqueid VARCHAR(32), userfield VARCHAR(255), peeraccount VARCHAR(20),
  linkedid VARCHAR(32), sequence INT
) DEFAULT CHARSET=utf8mb4;
