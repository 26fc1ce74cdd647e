-- Issabel: as FreePBX 16, with an index on linkedid, and `eventextra`.
CREATE TABLE cdr (
  calldate DATETIME NOT NULL DEFAULT '1970-01-01 00:00:00', clid VARCHAR(80) NOT NULL DEFAULT '',
  src VARCHAR(80) NOT NULL DEFAULT '', dst VARCHAR(80) NOT NULL DEFAULT '', dcontext VARCHAR(80) NOT NULL DEFAULT '',
  channel VARCHAR(80) NOT NULL DEFAULT '', dstchannel VARCHAR(80) NOT NULL DEFAULT '',
  lastapp VARCHAR(80) NOT NULL DEFAULT '', lastdata VARCHAR(80) NOT NULL DEFAULT '',
  duration INT NOT NULL DEFAULT 0, billsec INT NOT NULL DEFAULT 0, disposition VARCHAR(45) NOT NULL DEFAULT '',
  amaflags INT NOT NULL DEFAULT 0, accountcode VARCHAR(20) NOT NULL DEFAULT '', uniqueid VARCHAR(32) NOT NULL DEFAULT '',
  userfield VARCHAR(255) NOT NULL DEFAULT '', did VARCHAR(50) NOT NULL DEFAULT '',
  recordingfile VARCHAR(255) NOT NULL DEFAULT '', linkedid VARCHAR(32) NOT NULL DEFAULT '',
  peeraccount VARCHAR(80) NOT NULL DEFAULT '', sequence INT NOT NULL DEFAULT 0,
  KEY calldate (calldate), KEY dst (dst), KEY accountcode (accountcode), KEY uniqueid (uniqueid), KEY linkedid (linkedid),
  KEY sequence (sequence), KEY linked_sequence (linkedid, sequence)
) DEFAULT CHARSET=utf8mb4;
CREATE TABLE cel (
  id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, eventtype VARCHAR(30) NOT NULL DEFAULT '',
  eventtime DATETIME NOT NULL DEFAULT '1970-01-01 00:00:00', cid_name VARCHAR(80) NOT NULL DEFAULT '',
  cid_num VARCHAR(80) NOT NULL DEFAULT '', cid_ani VARCHAR(80) NOT NULL DEFAULT '',
  cid_rdnis VARCHAR(80) NOT NULL DEFAULT '', cid_dnid VARCHAR(80) NOT NULL DEFAULT '',
  exten VARCHAR(80) NOT NULL DEFAULT '', context VARCHAR(80) NOT NULL DEFAULT '', channame VARCHAR(80) NOT NULL DEFAULT '',
  appname VARCHAR(80) NOT NULL DEFAULT '', appdata VARCHAR(240) NOT NULL DEFAULT '', amaflags INT NOT NULL DEFAULT 0,
  accountcode VARCHAR(20) NOT NULL DEFAULT '', uniqueid VARCHAR(32) NOT NULL DEFAULT '',
  linkedid VARCHAR(32) NOT NULL DEFAULT '', peer VARCHAR(80) NOT NULL DEFAULT '', userfield VARCHAR(255) NOT NULL DEFAULT '',
  userdeftype VARCHAR(255) NOT NULL DEFAULT '', eventextra VARCHAR(255) NOT NULL DEFAULT '',
  KEY uniqueid_index (uniqueid), KEY linkedid_index (linkedid), KEY context_index (context)
) DEFAULT CHARSET=utf8mb4;
