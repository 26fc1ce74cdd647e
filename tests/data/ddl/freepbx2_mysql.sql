-- FreePBX 2.x: the sixteen classic columns, no linkedid.
CREATE TABLE cdr (
  calldate DATETIME NOT NULL, clid VARCHAR(80) NOT NULL, src VARCHAR(80) NOT NULL, dst VARCHAR(80) NOT NULL,
  dcontext VARCHAR(80) NOT NULL, channel VARCHAR(80) NOT NULL, dstchannel VARCHAR(80) NOT NULL,
  lastapp VARCHAR(80) NOT NULL, lastdata VARCHAR(80) NOT NULL, duration INT NOT NULL, billsec INT NOT NULL,
  disposition VARCHAR(45) NOT NULL, amaflags INT NOT NULL, accountcode VARCHAR(20) NOT NULL, uniqueid VARCHAR(32) NOT NULL,
  userfield VARCHAR(255) NOT NULL, KEY calldate (calldate), KEY dst (dst), KEY accountcode (accountcode)
) DEFAULT CHARSET=utf8mb4;
