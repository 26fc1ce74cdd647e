-- As the SIPSTACK connector's documentation asks for: both tables with an id.
CREATE TABLE cdr (
  id INT AUTO_INCREMENT PRIMARY KEY, calldate DATETIME NOT NULL, clid VARCHAR(80), src VARCHAR(80), dst VARCHAR(80),
  dcontext VARCHAR(80), channel VARCHAR(80), dstchannel VARCHAR(80), lastapp VARCHAR(80), lastdata VARCHAR(80),
  duration INT, billsec INT, disposition VARCHAR(45), amaflags INT, accountcode VARCHAR(20), uniqueid VARCHAR(150),
  userfield VARCHAR(255), linkedid VARCHAR(150), sequence INT, peeraccount VARCHAR(80),
  INDEX idx_calldate (calldate), INDEX idx_linkedid (linkedid)
) DEFAULT CHARSET=utf8mb4;
CREATE TABLE cel (
  id INT AUTO_INCREMENT PRIMARY KEY, eventtype VARCHAR(30), eventtime TIMESTAMP(6) NULL, cid_name VARCHAR(80),
  cid_num VARCHAR(80), cid_ani VARCHAR(80), cid_rdnis VARCHAR(80), cid_dnid VARCHAR(80), exten VARCHAR(80),
  context VARCHAR(80), channame VARCHAR(80), appname VARCHAR(80), appdata VARCHAR(512), amaflags INT,
  accountcode VARCHAR(20), uniqueid VARCHAR(150), linkedid VARCHAR(150), peer VARCHAR(80), userdeftype VARCHAR(255),
  extra VARCHAR(512), INDEX idx_linkedid (linkedid)
) DEFAULT CHARSET=utf8mb4;
