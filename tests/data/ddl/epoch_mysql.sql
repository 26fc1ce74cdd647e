-- Times as numbers and as text; event types as numbers.
CREATE TABLE cdr (
  id BIGINT AUTO_INCREMENT PRIMARY KEY, start INT, answer INT, end INT, src VARCHAR(80), dst VARCHAR(80),
  channel VARCHAR(80), dstchannel VARCHAR(80), duration INT, billsec INT, disposition INT, uniqueid VARCHAR(150),
  linkedid VARCHAR(150), sequence INT
) DEFAULT CHARSET=utf8mb4;
CREATE TABLE cel (
  eventtype INT, eventtime VARCHAR(30), channame VARCHAR(80), uniqueid VARCHAR(150), linkedid VARCHAR(150), exten VARCHAR(80)
) DEFAULT CHARSET=utf8mb4;
