-- The tables of Asterisk's own documentation of cel_pgsql and cdr_pgsql.
CREATE TABLE cdr (
  calldate timestamp NOT NULL, clid varchar(80) NOT NULL, src varchar(80) NOT NULL, dst varchar(80) NOT NULL,
  dcontext varchar(80) NOT NULL, channel varchar(80) NOT NULL, dstchannel varchar(80) NOT NULL, lastapp varchar(80) NOT NULL,
  lastdata varchar(80) NOT NULL, duration integer NOT NULL, billsec integer NOT NULL, disposition varchar(45) NOT NULL,
  amaflags integer NOT NULL, accountcode varchar(20) NOT NULL, uniqueid varchar(150) NOT NULL,
  userfield varchar(255) NOT NULL, peeraccount varchar(20) NOT NULL, linkedid varchar(150) NOT NULL, sequence integer NOT NULL
);
CREATE TABLE cel (
  id serial, eventtype varchar(30) NOT NULL, eventtime timestamp NOT NULL, userdeftype varchar(255) NOT NULL,
  cid_name varchar(80) NOT NULL, cid_num varchar(80) NOT NULL, cid_ani varchar(80) NOT NULL, cid_rdnis varchar(80) NOT NULL,
  cid_dnid varchar(80) NOT NULL, exten varchar(80) NOT NULL, context varchar(80) NOT NULL, channame varchar(80) NOT NULL,
  appname varchar(80) NOT NULL, appdata varchar(80) NOT NULL, amaflags int NOT NULL, accountcode varchar(20) NOT NULL,
  peeraccount varchar(20) NOT NULL, uniqueid varchar(150) NOT NULL, linkedid varchar(150) NOT NULL,
  userfield varchar(255) NOT NULL, peer varchar(80) NOT NULL, PRIMARY KEY (id)
);
