-- VitalPBX, as exporters read it: an id of its own name, and both src and source.
CREATE TABLE cdr (
  cdr_id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, calldate DATETIME, clid VARCHAR(80), source VARCHAR(80),
  src VARCHAR(80), dst VARCHAR(80), destination VARCHAR(80), dcontext VARCHAR(80), channel VARCHAR(80),
  dstchannel VARCHAR(80), lastapp VARCHAR(80), lastdata VARCHAR(80), duration INT, billsec INT, disposition VARCHAR(45),
  amaflags INT, uniqueid VARCHAR(150), linkedid VARCHAR(150), sequence INT, calltype VARCHAR(20)
) DEFAULT CHARSET=utf8mb4;
